from __future__ import annotations

import csv
import io
import json
import socket
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from blemish import Patchcore
from blemish.station import InspectionFilter, StationError
from tests.images import good, scratched
from tests.station.test_service import png
from tests.station.web_client import called

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

    from blemish.station import InspectionService
    from tests.station.conftest import Opener

PREDICT = "/v1/models/stripes:predict"


@pytest.fixture
def client(station: InspectionService) -> Iterator[httpx.Client]:
    """A client of a new station without users."""
    with called(station) as made:
        yield made


def sent(client: httpx.Client, image: np.ndarray, **fields: str) -> dict[str, Any]:
    answer = client.post(PREDICT, files={"image": ("part.png", png(image), "image/png")}, data=fields)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def refused(answer: Any, status: int) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert set(document) == {"type", "title", "status", "detail"}
    assert document["status"] == status
    return str(document["detail"])


@pytest.mark.slow
def test_the_answer_over_http_is_the_one_in_process(client: httpx.Client, station: InspectionService):
    image = scratched(1)[0]
    over_http = sent(client, image, part_id="A-17")
    in_process = station.inspect(png(image))
    for name in ("score", "label", "outcome", "p_value", "threshold", "regions", "peak_xy", "digest"):
        assert over_http[name] == json.loads(json.dumps(in_process.to_dict()[name])), name
    assert (over_http["part_id"], over_http["source"]) == ("A-17", "part.png")
    assert client.get(over_http["links"]["self"]).json() == over_http


def test_raw_bytes_are_inspected(client: httpx.Client):
    data = png(good(1))
    answer = client.post(PREDICT, params={"part_id": "B 2"}, content=data, headers={"Content-Type": "image/png"})
    assert (answer.status_code, answer.json()["part_id"], answer.json()["source"]) == (200, "B 2", "api")
    assert client.get(answer.json()["links"]["image"]).content == data


@pytest.mark.slow
def test_image_map_overlay_and_thumbnail(client: httpx.Client, station: InspectionService):
    links = sent(client, scratched(1, 200, 300)[0])["links"]
    shapes = {}
    for name in ("image", "map", "overlay", "thumbnail"):
        answer = client.get(links[name])
        assert answer.status_code == 200
        shapes[name] = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_UNCHANGED).shape
    assert shapes == {
        "image": (200, 300, 3),
        "map": (200, 300, 4),
        "overlay": (200, 300, 3),
        "thumbnail": (171, 256, 3),
    }
    values = np.load(io.BytesIO(client.get(links["map"], params={"format": "npy"}).content))
    np.testing.assert_array_equal(values, station.anomaly_map(station.records.get(links["self"].rpartition("/")[2])))


def test_a_batch_names_each_image_that_can_not_be_read(client: httpx.Client):
    images = [("image", ("a.png", png(good(1)))), ("image", ("b.png", b"no image")), ("image", ("c.png", png(good(2))))]
    answer = client.post("/v1/models/stripes:predictBatch", files=images, data={"part_id": "lot 3"})
    first, second, third = answer.json()["results"]
    assert (first["part_id"], third["source"]) == ("lot 3", "c.png")
    assert (second["source"], second["status"]) == ("b.png", 422)
    assert "expected PNG, JPEG, BMP, TIFF or WebP" in second["detail"]
    many = [("image", ("a.png", b""))] * 65
    assert "1 to 64" in refused(client.post("/v1/models/stripes:predictBatch", files=many), 422)


@pytest.mark.parametrize(
    ("content", "headers", "status", "detail"),
    [
        (b"", {}, 422, "image: expected an image, got 0 bytes"),
        (b"%PDF-1.7", {"Content-Type": "image/png"}, 422, "got a PDF"),
        (b"x" * 20, {"Content-Type": "multipart/form-data"}, 400, "body: expected a complete multipart form"),
        (b"--b\r\nx", {"Content-Type": "multipart/form-data; boundary=b"}, 400, "body: expected a complete multipart"),
        (b"--b--\r\n", {"Content-Type": "multipart/form-data; boundary=b"}, 422, "image: expected one multipart field"),
    ],
)
def test_wrong_bodies_are_answered_with_what_was_expected(
    client: httpx.Client, content: bytes, headers: dict[str, str], status: int, detail: str
):
    assert detail in refused(client.post(PREDICT, content=content, headers=headers), status)


@pytest.mark.slow
def test_too_many_bytes_and_pixels_are_refused_before_decoding(opened_station: Opener, monkeypatch: pytest.MonkeyPatch):
    station = opened_station(max_bytes=100_000, max_pixels=5000)
    monkeypatch.setattr("blemish.station.job.decode", None)
    with called(station) as client:
        text = refused(client.post(PREDICT, content=b"x" * 200_000), 413)
        assert text == "body: expected at most 165,536 bytes, got 200,000."
        chunks = (b"x" * 50_000 for _ in range(10))
        assert "at most 165,536 bytes" in refused(client.post(PREDICT, content=chunks), 413)
        assert "at most 5,000 pixels" in refused(
            client.post(PREDICT, content=png(np.zeros((96, 96, 3), np.uint8))), 422
        )
        assert client.get("/v1/inspections").json()["inspections"] == []


@pytest.mark.parametrize(
    ("method", "path", "status", "detail"),
    [
        ("POST", "/v1/models/none:predict", 404, "model: expected one in service: stripes, got 'none'"),
        ("GET", "/v1/inspections/none", 404, "inspection: expected an id"),
        ("GET", "/v1/inspections/..%2f..%2fetc/image", 404, ""),
        ("GET", "/v1/inspections?outcome=bad", 422, "outcome: expected one of good, look again, defective, got 'bad'"),
        ("GET", "/v1/inspections?limit=0", 422, "limit: expected 1 to 500"),
        ("GET", "/v1/inspections?limit=x", 422, "limit: Input should be a valid integer"),
        ("GET", "/v1/inspections?since=yesterday", 422, "since: expected a time such as"),
        ("GET", "/v1/models/none/histogram", 404, "model: expected one in service"),
        ("GET", "/v1/models/stripes/threshold", 422, "threshold: expected a threshold or a false positive rate"),
        ("GET", "/v1/models/stripes/threshold?threshold=nan", 422, ""),
        ("GET", "/none", 404, "Not Found"),
        ("PUT", "/v1/models", 405, "Method Not Allowed"),
    ],
)
def test_every_endpoint_says_what_it_expects(client: httpx.Client, method: str, path: str, status: int, detail: str):
    assert detail in refused(client.request(method, path, content=png(good(1))), status)


@pytest.mark.slow
def test_a_full_queue_is_429_with_a_time_to_come_again(opened_station: Opener, monkeypatch: pytest.MonkeyPatch):
    station, may_run, predict = opened_station(n_workers=1, max_queue=1), threading.Event(), Patchcore.predict
    monkeypatch.setattr(Patchcore, "predict", lambda self, image: may_run.wait(30) and predict(self, image))
    with called(station) as client:
        accepted = [station.submit(good(1)) for _ in range(2)]
        answer = client.post(PREDICT, content=png(good(1)))
        assert "queue: expected at most 1 waiting images" in refused(answer, 429)
        assert int(answer.headers["retry-after"]) >= 1
        may_run.set()
        assert [future.result().number for future in accepted] == [1, 2]


@pytest.mark.slow
def test_an_answer_that_takes_too_long_is_stored_all_the_same(opened_station: Opener, monkeypatch: pytest.MonkeyPatch):
    station, may_run, predict = opened_station(n_workers=1), threading.Event(), Patchcore.predict
    monkeypatch.setattr(Patchcore, "predict", lambda self, image: may_run.wait(30) and predict(self, image))
    with called(station, answer_s=0.05) as client:
        assert "answer: expected one within 0.05 s" in refused(client.post(PREDICT, content=png(good(1))), 504)
        may_run.set()
        station.close()
    assert station.n_pending == 0


@pytest.mark.slow
def test_lists_are_filtered_and_paged(client: httpx.Client):
    for seed in range(5):
        sent(client, good(seed), part_id=f"A{seed}")
    first = client.get("/v1/inspections", params={"limit": 2, "part_id": "A"}).json()
    second = client.get(first["next"]).json()
    third = client.get(second["next"]).json()
    assert [one["number"] for page in (first, second, third) for one in page["inspections"]] == [5, 4, 3, 2, 1]
    assert third["next"] is None
    assert [one["number"] for one in client.get("/v1/inspections?after=3").json()["inspections"]] == [5, 4]
    assert client.get("/v1/inspections?since=2999-01-01T00:00:00Z").json()["inspections"] == []
    rows = list(csv.DictReader(io.StringIO(client.get("/v1/export.csv?part_id=A3").text)))
    assert [row["part_id"] for row in rows] == ["A3"]


@pytest.mark.slow
def test_reviews_and_their_undo(client: httpx.Client):
    links = sent(client, scratched(1)[0])["links"]
    said = client.post(links["review"], json={"verdict": "defective", "defect_type": "scratch"})
    assert (said.status_code, said.json()["who"]) == (200, "local")
    assert client.get(links["self"]).json()["review"]["defect_type"] == "scratch"
    assert "verdict" in refused(client.post(links["review"], json={"verdict": "bad"}), 422)
    assert "none for a good part" in refused(
        client.post(links["review"], json={"verdict": "good", "defect_type": "x"}), 422
    )
    assert client.delete(links["review"]).json() == {"review": None}
    assert "an inspection that was reviewed" in refused(client.delete(links["review"]), 422)
    assert client.post("/v1/review:next").json()["inspection"]["number"] == 1


@pytest.mark.slow
def test_thresholds_are_tried_moved_and_rolled_back(client: httpx.Client):
    sent(client, good(1))
    (before,) = client.get("/v1/models").json()
    shown = client.get("/v1/models/stripes/threshold", params={"false_positive_rate": 0.3}).json()
    moved = client.post("/v1/models/stripes/threshold", json={"false_positive_rate": 0.3}).json()
    assert (moved["threshold"], moved["previous"]) == (shown["threshold"], before["number"])
    assert "false_positive_rate" in refused(
        client.post("/v1/models/stripes/threshold", json={"false_positive_rate": 2}), 422
    )
    assert client.post("/v1/models/stripes:rollBack").json()["threshold"] == before["threshold"]
    assert [one["reason"] for one in client.get("/v1/models/stripes/history").json()] == [
        "rolled back to 1", "threshold moved", "started with it",
    ]  # fmt: skip
    assert set(client.get("/v1/models/stripes/histogram").json()) == {
        "edges", "is_cut", "calibration", "good", "defective", "not reviewed",
    }  # fmt: skip
    assert [entry["action"] for entry in client.get("/v1/audit?after=2").json()] == ["put in service"] * 2


@pytest.mark.slow
def test_health_and_metrics(client: httpx.Client, station: InspectionService, monkeypatch: pytest.MonkeyPatch):
    assert client.get("/healthz").json() == {"status": "alive"}
    assert client.get("/readyz").json() == {"ready": True, "problems": []}
    outcome = sent(client, good(1))["outcome"]
    client.get("/none")
    lines = client.get("/metrics").text.splitlines()
    assert f'blemish_inspections_total{{model="stripes",outcome="{outcome}"}} 1.0' in lines
    assert 'blemish_refused_total{status="404"} 1.0' in lines
    assert "blemish_pending 0.0" in lines
    monkeypatch.setattr("blemish.station.web.health.LEAST_FREE_BYTES", 1 << 62)
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert "free some space" in answer.json()["problems"][0]


@pytest.mark.slow
def test_the_document_of_the_api_has_examples(client: httpx.Client):
    document = client.get("/openapi.json").json()
    paths = document["paths"]
    for path in ("/v1/models/{name}:predict", "/v1/inspections", "/v1/models", "/v1/similar", "/healthz", "/metrics"):
        assert path in paths
    for path, operations in paths.items():
        for operation in operations.values():
            assert operation["description"], path
    fields = document["components"]["schemas"]["Inspection"]["properties"]
    assert all("examples" in field or "$ref" in str(field) for field in fields.values())
    assert "example" in paths["/v1/models/{name}:predict"]["post"]["requestBody"]["content"]["multipart/form-data"]


@pytest.mark.slow
def test_pages_may_load_nothing_from_elsewhere_and_other_sites_change_nothing(client: httpx.Client):
    headers = client.get("/healthz").headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    links = sent(client, good(1))["links"]
    for foreign in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        answer = client.post(links["review"], json={"verdict": "good"}, headers=foreign)
        assert "a page of this station, got another site" in refused(answer, 403)
    own = {"Origin": str(client.base_url).rstrip("/"), "Sec-Fetch-Site": "same-origin"}
    assert client.post(links["review"], json={"verdict": "good"}, headers=own).status_code == 200
    assert "Host: expected localhost" in refused(client.get("/v1/models", headers={"Host": "evil.example"}), 421)
    assert client.get("/v1/models", headers={"Host": "[::1]:8470"}).status_code == 200


def test_a_fault_is_named_without_its_inside(
    station: InspectionService, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(type(station.records), "counts", None)
    monkeypatch.setattr(type(station.records), "page", lambda *_, **__: 1 / 0)
    assert refused(client.get("/v1/inspections"), 500) == "The station's log says more. Please report it."


def test_events_are_streamed_and_the_stream_ends_when_the_station_stops(station: InspectionService):
    import asyncio

    from blemish.station.web.live import Stop, event_stream

    async def listen() -> list[str]:
        stop, lines = Stop(), []
        stream = event_stream(station.events, stop)
        lines.append(await stream.__anext__())
        await asyncio.to_thread(station.inspect, good(1))
        lines.append(await stream.__anext__())
        for number in range(500):
            station.events.publish("review", {"id": number})
        await asyncio.sleep(0.05)
        lines.append(await stream.__anext__())
        stop.set()
        lines += [text async for text in stream]
        return lines

    first, second, third, *_ = asyncio.run(listen())
    assert first.startswith("retry:")
    assert second.startswith("event: inspection\ndata: {")
    assert third.startswith("event: missed")
    assert station.events.n_listeners == 0


@pytest.mark.slow
def test_a_client_that_is_gone_or_slow_is_no_fault(opened_station: Opener, caplog: pytest.LogCaptureFixture):
    with called(opened_station(), body_s=0.3) as client:
        place = client.base_url.host, client.base_url.port
        head = f"POST {PREDICT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\n".encode()
        with socket.create_connection(place) as gone:
            gone.sendall(head + b"half")
        with socket.create_connection(place) as slow:
            slow.sendall(head + b"half")
            assert b" 408 " in slow.recv(1000)
        assert client.get("/healthz").status_code == 200
    assert caplog.records == []


def test_the_server_stops_when_the_records_are_damaged(station: InspectionService):
    from blemish.station.web.options import WebOptions
    from blemish.station.web.server import serve

    station.database.is_damaged = True
    with pytest.raises(StationError, match="Start the station again"):
        serve(station, WebOptions(port=0), started=lambda _: None)


def test_answers_do_not_wait_for_the_client_to_confirm_their_first_part():
    from blemish.station.web.options import WebOptions
    from blemish.station.web.server import listening

    with listening(WebOptions(port=0)) as server, socket.create_connection(server.getsockname()[:2]):
        accepted, _ = server.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


# --- the watched folder -----------------------------------------------------------------------------------------------


def wait_for(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


@pytest.mark.slow
def test_images_that_arrive_in_a_folder_are_inspected_once(
    opened_station: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from blemish.station import InspectionFilter
    from blemish.station.watch import Watch

    monkeypatch.setattr("blemish.station.watch.SETTLED_S", 0.1)
    monkeypatch.setattr("blemish.station.watch.POLL_S", 0.03)
    folder, station = tmp_path / "in", opened_station()
    folder.mkdir()
    (folder / "old.png").write_bytes(png(good(0)))
    watch = Watch(station, folder)
    data = png(good(1))
    (folder / "half.png").write_bytes(data[:2000])
    (folder / "notes.txt").write_text("none")
    (folder / ".one.png").write_bytes(png(good(8)))
    (folder / "one.bin").write_bytes(png(good(2)))  # an image by its first bytes
    wait_for(lambda: watch.n_inspected == 1)
    (folder / "half.png").write_bytes(data)
    wait_for(lambda: watch.n_inspected == 2)
    folder.rename(tmp_path / "gone")
    time.sleep(0.2)
    (tmp_path / "gone").rename(folder)
    (folder / "two.png").write_bytes(png(good(3)))
    wait_for(lambda: watch.n_inspected == 3)
    watch.close()
    (folder / "three.png").write_bytes(png(good(4)))
    watch = Watch(opened_station(), folder)
    wait_for(lambda: watch.n_inspected == 1)
    time.sleep(0.3)
    watch.close()
    page = watch._service.records.page(InspectionFilter())
    assert sorted(one.source for one in page) == ["half.png", "one.bin", "three.png", "two.png"]


@pytest.mark.slow
def test_first_bytes_of_a_watched_file_are_read_once(
    opened_station: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from blemish.data.discovery import has_image_bytes
    from blemish.station.watch import Watch

    read: list[str] = []
    monkeypatch.setattr("blemish.station.watch.SETTLED_S", 0.1)
    monkeypatch.setattr("blemish.station.watch.POLL_S", 0.03)
    monkeypatch.setattr(
        "blemish.station.watch.has_image_bytes", lambda path: read.append(path.name) or has_image_bytes(path)
    )
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("none")
    watch = Watch(opened_station(), tmp_path / "in")
    (tmp_path / "one.bin").write_bytes(png(good(2)))
    (tmp_path / "one.bin").rename(tmp_path / "in" / "one.bin")
    wait_for(lambda: watch.n_inspected == 1)
    time.sleep(0.3)
    watch.close()
    assert sorted(read) == ["notes.txt", "one.bin"]


@pytest.mark.slow
def test_an_empty_file_in_a_watched_folder_is_said(
    opened_station: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """A camera that failed in the middle leaves one: the part was not inspected."""
    from blemish.station.watch import Watch

    for name, seconds in (("SETTLED_S", 0.05), ("POLL_S", 0.03), ("PATIENCE_S", 0.2)):
        monkeypatch.setattr(f"blemish.station.watch.{name}", seconds)
    (tmp_path / "in").mkdir()
    watch = Watch(opened_station(), tmp_path / "in")
    (tmp_path / "in" / "part.png").touch()
    wait_for(lambda: "got 0 bytes" in caplog.text)
    watch.close()
    assert "A watched file was not inspected: image: expected an image, got 0 bytes" in caplog.text


@pytest.mark.slow
def test_exports_come_as_zip_files_like_the_folders(client: httpx.Client, station: InspectionService, tmp_path: Path):
    for seed in range(2):
        station.review(station.inspect(good(seed)).id, "good", who="eva")
    bad = station.inspect(scratched(1)[0])
    station.review(bad.id, "defective", who="eva", defect_type="deep/scratch")
    station.inspect(good(5))
    for layout, write in (("folders", station.export_folders), ("coco", station.export_coco)):
        answer = client.get("/v1/export.zip", params={"layout": layout})
        assert answer.headers["content-type"] == "application/zip"
        write(tmp_path / layout, InspectionFilter())
        expected = {
            path.relative_to(tmp_path / layout).as_posix(): path.read_bytes()
            for path in (tmp_path / layout).rglob("*")
            if path.is_file()
        }
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            assert archive.testzip() is None
            assert {name: archive.read(name) for name in archive.namelist()} == expected
    only = client.get("/v1/export.zip", params={"defect_type": "deep/scratch"})
    with zipfile.ZipFile(io.BytesIO(only.content)) as archive:
        assert {name.split("/")[-2] for name in archive.namelist() if "/" in name} == {"deep_scratch"}
        assert json.loads(archive.read("types.json")) == {"deep_scratch": "deep/scratch"}
    station.files.image(bad.id, bad.format).unlink()
    gone = client.get("/v1/export.zip")
    with zipfile.ZipFile(io.BytesIO(gone.content)) as archive:
        assert archive.read("left-out.txt").decode() == f"{bad.id}: its image is gone.\n"


@pytest.mark.slow
def test_exports_are_bounded(client: httpx.Client, station: InspectionService, monkeypatch: pytest.MonkeyPatch):
    for seed in range(3):
        station.inspect(good(seed))
    with monkeypatch.context() as few:
        few.setattr("blemish.station.service.MAX_ZIPPED", 2)
        text = refused(client.get("/v1/export.zip?layout=coco"), 422)
        assert "export: expected at most 2 inspections, got 3. State since and until" in text
    assert "folders" in refused(client.get("/v1/export.zip?layout=xml"), 422)
    held, may_go = threading.Event(), threading.Event()

    def slow(_: object) -> Iterator[bytes]:
        held.set()
        may_go.wait(20)
        yield b"x"

    monkeypatch.setattr("blemish.station.service.to_zip", slow)
    with ThreadPoolExecutor(2) as clients:
        first = clients.submit(client.get, "/v1/export.zip")
        assert held.wait(20)
        held.clear()
        second = clients.submit(client.get, "/v1/export.zip")
        assert held.wait(20)
        assert "at most 2 at once" in refused(client.get("/v1/export.zip"), 429)
        may_go.set()
        assert (first.result().content, second.result().content) == (b"x", b"x")
    assert client.get("/v1/export.zip").status_code == 200  # the places are free again
