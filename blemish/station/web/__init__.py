"""The station over HTTP: API, access, live events and pages. Needs `blemish[station]`."""
