"""Other tools' formats: what is read from them and written for them. Nothing here is needed to fit or predict."""
