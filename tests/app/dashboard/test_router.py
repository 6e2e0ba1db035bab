from __future__ import annotations

import re
from dataclasses import replace

import pytest
from fastapi.testclient import TestClient

from bitbudget.app.auth.principal import Scope
from bitbudget.app.core.activations import INT8_NATS
from bitbudget.app.core.canonical import sha256_of
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.dashboard.rendering import asset_file, asset_names
from bitbudget.app.server.main import create_app
from bitbudget.app.server.settings import Settings
from tests.support.http import Server

PAGES = ("/", "/models", "/compare", "/benchmarks", "/machines")
TWINS = ("/index.json", "/models.json", "/compare.json", "/benchmarks.json", "/machines.json")
HOSTILE = "<script>alert(1)</script>"


def answered(server: Server, measurement: Measurement, **fields: object) -> str:
    job = server.submit(budget="180kB", **fields)
    worker = server.worker()
    worker.claim()
    worker.do(measurement)
    return str(job["id"])


@pytest.mark.parametrize(("page", "twin"), list(zip(PAGES, TWINS, strict=True)))
def test_an_empty_server_has_all_its_pages(server: Server, page: str, twin: str) -> None:
    shown = server.http.get(page)
    assert shown.status_code == 200
    assert shown.headers["content-type"] == "text/html; charset=utf-8"
    policy = shown.headers["content-security-policy"]
    assert "script-src 'self';" in policy
    assert "default-src 'none'" in policy
    assert f'href="{twin}' in shown.text
    assert server.http.get(twin).json()["title"] in shown.text


def test_no_page_holds_a_script_of_its_own_or_of_another_site(
    server: Server, measurement: Measurement
) -> None:
    job = answered(server, measurement)
    text = server.http.get(f"/jobs/{job}").text
    for tag in re.findall(r"<script[^>]*>", text):
        assert 'type="application/json"' in tag or re.search(r'src="/static/[\w.]+\?v=', tag)
    assert not re.search(r'(?:src|href)="(?:https?:)?//', text)
    assert " onclick=" not in text


def test_what_users_write_cannot_become_markup(server: Server) -> None:
    job = server.submit(model=f"org/{HOSTILE}".replace("/script", "script"))
    for page in ("/", f"/jobs/{job['id']}"):
        assert "<script>alert" not in server.http.get(page).text
    refused = server.http.post("/submit", data={"model": HOSTILE, "budget": HOSTILE})
    assert refused.status_code == 422
    assert HOSTILE not in refused.text


def test_an_answered_job_shows_its_figures_and_gives_their_tables(
    server: Server, measurement: Measurement
) -> None:
    job = answered(server, measurement)
    shown = server.http.get(f"/jobs/{job}")
    assert "Formats by layer" in shown.text
    twin = server.http.get(f"/jobs/{job}.json").json()
    assert twin["answer"]["manifest_sha256"] == server.job(job)["answer"]["manifest_sha256"]
    names = [series["name"] for series in twin["frontier"]["plot"]["series"]]
    assert "this answer" in names
    for name in ("frontier", "formats", "bytes"):
        table = server.http.get(f"/jobs/{job}/{name}.csv")
        assert table.headers["content-type"].startswith("text/csv")
        assert len(table.text.splitlines()) > 3
    assert server.http.get(f"/jobs/{job}/none.csv").status_code == 404


def test_every_mac_has_a_row_of_the_guide(server: Server, measurement: Measurement) -> None:
    answered(server, measurement)
    at = f"/models/{measurement.model.digest}/guide"
    page = server.http.get(at)
    assert "does not fit" not in page.text
    twin = server.http.get(f"{at}.json", params={"context": 128}).json()
    assert twin["context"] == 128
    table = server.http.get(f"{at}.csv").text.splitlines()
    assert len(table) == len(twin["guide"]["rows"]) + 1 > 20
    assert server.http.get(at, params={"context": 257}).status_code == 422
    assert f"{at}?measurement={measurement.key}" in server.http.get(at.removesuffix("/guide")).text


def test_a_mac_has_more_room_where_its_caches_are_small(
    server: Server, measurement: Measurement
) -> None:
    answered(server, measurement)
    at = f"/models/{measurement.model.digest}.json"
    caches = []
    for bits in (16, 8, 4):
        asked = f"device=m4-pro-24gb&context=256&kv_bits={bits}&runtime=bitbudget"
        page = server.http.get(f"{at}?{asked}").json()
        rows = {row[0]: row[1] for row in page["memory"]["figure"]["rows"]}
        caches.append(next(value for name, value in rows.items() if "KV" in name))
        assert f"kv_bits={bits}&runtime=bitbudget" in page["twin"]
        assert len(page["cards"]) == 1  # the model has 256 tokens
    assert caches == sorted(caches, reverse=True)
    assert len(set(caches)) == 3


def test_what_int8_products_cost_is_on_the_pages_of_job_and_model(
    server: Server, measurement: Measurement
) -> None:
    curves = (replace(curve, features={INT8_NATS: 0.25}) for curve in measurement.curves)
    job = answered(server, replace(measurement, curves=tuple(curves)))
    model = f"/models/{measurement.model.digest}"
    for page, table in (
        (f"/jobs/{job}", f"/jobs/{job}/int8.csv"),
        (f"{model}?budget=180000", f"{model}/int8.csv?budget=180000"),
    ):
        assert "On an engine with int8 products" in server.http.get(page).text
        rows = server.http.get(table).text.splitlines()
        assert rows[0] == 'module,format,bytes,runs int8,"KL, nats per token"'
        assert rows[1].endswith(",0.25")


def test_another_budget_is_another_address(server: Server, measurement: Measurement) -> None:
    answered(server, measurement)
    digest = server.http.get("/models.json").json()["models"][0]["digest"]
    here = f"/models/{digest}"
    start = server.http.get(f"{here}.json").json()
    small, large = (
        server.http.get(f"{here}.json?budget={start['slider'][end]}").json()
        for end in ("minimum", "maximum")
    )
    assert small["heatmap"]["figure"]["rows"] != large["heatmap"]["figure"]["rows"]
    module = "model.layers.0.self_attn.q_proj"
    detail = server.http.get(f"{here}?budget=180000&module={module}")
    assert f"<h2>{module}</h2>" in detail.text
    table = server.http.get(f"{here}/tensor.csv?budget=180000&module={module}").text
    assert table.startswith("format,bytes,")
    tiny = server.http.get(f"{here}?budget=1")
    assert "smallest feasible" in tiny.text


def test_a_missing_page_is_a_page_and_a_missing_twin_a_problem(server: Server) -> None:
    page = server.http.get("/jobs/none")
    assert (page.status_code, "Not found" in page.text) == (404, True)
    assert 'href="/jobs/none.json"' in page.text
    twin = server.http.get("/jobs/none.json")
    assert twin.status_code == 404
    assert twin.json()["type"] == "urn:bitbudget:problem:not-found"


def test_forms_are_taken_from_our_own_pages_only(server: Server) -> None:
    form = {"model": "org/model", "budget": "1GiB", "context": "4096"}
    form |= {"effort": "quick", "max_minutes": "2.5"}
    for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}):
        assert server.http.post("/submit", data=form, headers=headers).status_code == 403
    taken = server.http.post("/submit", data=form, follow_redirects=False)
    assert taken.status_code == 303
    job = taken.headers["Location"].removeprefix("/jobs/")
    assert server.job(job)["status"] == "queued"
    request = server.job(job)["request"]
    assert request["context"] == 4096
    assert (request["effort"], request["encoder"]) == ("quick", "careful")
    assert request["max_minutes"] == 2.5
    stopped = server.http.post(f"/jobs/{job}/cancel", follow_redirects=False)
    assert stopped.status_code == 303
    assert server.job(job)["status"] == "cancelled"


def test_the_form_says_at_once_what_fits(server: Server, measurement: Measurement) -> None:
    def ask(**query: str) -> dict[str, str]:
        return dict(server.http.get("/fit", params=query).json())

    assert ask()["words"] == ""
    assert "Not measured" in ask(model="org/model")["words"]
    answered(server, measurement)
    assert "answered at once" in ask(model="org/model")["words"]
    assert ask(model="org/model", budget="1kB")["verdict"] == "tight"
    assert ask(model="org/model", budget="180kB")["verdict"] == "fits"
    assert ask(model="org/model", budget="nonsense")["verdict"] == "tight"
    fits = ask(model="org/model", device="m4-pro-24gb", context="128")
    assert fits["verdict"] == "fits"
    assert ask(model="org/model", device="abacus")["verdict"] == "tight"


def test_answers_are_compared(server: Server, measurement: Measurement) -> None:
    first = answered(server, measurement)
    second = str(server.submit(budget="230kB")["id"])
    page = server.http.get(f"/compare.json?jobs={first}&jobs={second}").json()
    assert page["summary"]["rows"][1][1:] == [180_000, 230_000]
    assert page["differences"]["rows"]
    wrong = server.http.get("/compare?jobs=none")
    assert "There is no" in wrong.text


def test_a_budget_that_no_job_has_is_compared_too(server: Server, measurement: Measurement) -> None:
    job = answered(server, measurement)
    query = f"jobs={job}&measurement={measurement.key}&budget=230kB"
    page = server.http.get(f"/compare.json?{query}").json()
    assert page["summary"]["rows"][1][1:] == [180_000, 230_000]
    assert page["what_ifs"][0]["key"] == f"{measurement.key}@230000"
    assert f"allocations={measurement.key}%40230000" in page["twin"]
    assert server.http.get(page["twin"]).json()["summary"] == page["summary"]
    for size in ("1kB", "lots", ""):
        refused = server.http.get(f"/compare?allocations={measurement.key}@{size}")
        assert (refused.status_code, 'role="alert"' in refused.text) == (200, True)


def test_a_model_is_laid_into_the_memory_of_a_device(
    server: Server, measurement: Measurement
) -> None:
    answered(server, measurement)
    here = f"/models/{measurement.model.digest}"
    asked = "budget=180000&device=m4-pro-24gb&context=128"
    page = server.http.get(f"{here}.json?{asked}").json()
    weights, cache = page["memory"]["figure"]["rows"][:2]
    assert weights[1] <= 180_000
    assert cache[1] > 0
    assert "device=m4-pro-24gb" in page["twin"]
    assert server.http.get(f"{here}/memory.csv?{asked}").text.startswith("part,bytes")
    too_long = server.http.get(f"{here}?{asked}000")
    assert "the model&#39;s own limit" in too_long.text
    assert server.http.get(f"{here}?device=abacus").status_code == 200


@pytest.mark.parametrize("name", asset_names())
def test_assets_are_kept_for_ever_under_their_digest(server: Server, name: str) -> None:
    answer = server.http.get(f"/static/{name}?v={asset_file(name).version}")
    assert answer.status_code == 200
    assert "immutable" in answer.headers["cache-control"]
    assert answer.content == asset_file(name).path.read_bytes()


def test_only_known_files_are_assets(server: Server) -> None:
    assert server.http.get("/static/..%2Frouter.py").status_code == 404
    assert server.http.get("/static/app.py").status_code == 404


def test_a_server_with_keys_asks_for_one_and_keeps_it_in_a_cookie(settings: Settings) -> None:
    locked = create_app(settings.model_copy(update={"require_keys": True}))
    with TestClient(locked, base_url="http://127.0.0.1") as http:
        refused = http.get("/")
        assert (refused.status_code, "Sign in" in refused.text) == (401, True)
        assert http.get("/index.json").status_code == 401
        assert http.post("/sign-in", data={"key": "wrong"}).status_code == 401
        made = locked.state.services.keys.create("me", [Scope.JOBS_READ])
        asked = http.get("/models?cursor=x")
        assert 'name="to" value="/models?cursor=x"' in asked.text
        form = {"key": made.token, "to": "/models"}
        taken = http.post("/sign-in", data=form, follow_redirects=False)
        assert taken.headers["Location"] == "/models"
        away = http.post("/sign-in", data=form | {"to": "//elsewhere"}, follow_redirects=False)
        assert away.headers["Location"] == "/"
        cookie = taken.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "samesite=strict" in cookie.lower()
        assert "Sign out" in http.get("/").text
        form = {"model": "a/b", "budget": "1GB"}
        ours = {"Sec-Fetch-Site": "same-origin"}
        assert http.post("/submit", data=form, headers=ours).status_code == 403
        http.post("/sign-out", headers=ours)
        assert http.get("/").status_code == 401


def test_an_answer_is_taken_from_the_slider(server: Server, measurement: Measurement) -> None:
    how = {"encoder": measurement.encoder, "sensitivity": measurement.sensitivity}
    answered(server, measurement, **how)
    digest = server.http.get("/models.json").json()["models"][0]["digest"]
    here = f"/models/{digest}"
    shown = server.http.get(f"{here}.json?budget=180kB").json()
    assert shown["slider"]["value"] == 180_000
    steps = {point[0] for point in shown["slider"]["frontier"]}
    frontier = server.http.get(f"/v1/measurements/{measurement.key}/frontier").json()
    assert steps == {point["file_bytes"] for point in frontier["breakpoints"]}
    assert shown["taking"]["command"].startswith("bitbudget run org/model --budget 180000")
    manifest = server.http.get(f"{here}/manifest?budget=180kB")
    assert sha256_of(manifest.content) == Manifest.from_bytes(manifest.content).sha256
    form = {"budget": "180000", "measurement": measurement.key}
    made = server.http.post(f"{here}/checkpoint", data=form, follow_redirects=False)
    job = server.job(made.headers["Location"].rsplit("/", 1)[1])
    assert job["request"]["deliver"] == "checkpoint"
    assert job["answer"]["file_bytes"] <= 180_000  # answered from the stored curves
    wrong = server.http.get(f"{here}?budget=5.5")
    assert (wrong.status_code, "5.5 of what?" in wrong.text) == (200, True)


def test_a_cancelled_job_says_what_happened_and_is_tried_again(server: Server) -> None:
    job = server.submit(model="org/new", sensitivity="weights", kv_bits=8)["id"]
    server.http.post(f"/jobs/{job}/cancel")
    page = server.http.get(f"/jobs/{job}").text
    assert "No worker had begun" in page
    again = server.http.post(f"/jobs/{job}/again", follow_redirects=False)
    twin = server.job(again.headers["Location"].rsplit("/", 1)[1])
    assert (twin["id"] != job, twin["request"]) == (True, server.job(job)["request"])
    form = server.http.get(f"/?like={job}").text
    assert 'value="org/new"' in form
    assert '<option value="weights" selected>' in form
    assert '<option value="8" selected>' in form


def test_the_form_has_what_the_command_line_has(server: Server) -> None:
    form = {
        "model": "org/new",
        "device": "m4-pro-24gb",
        "context": "4096",
        "joint_kv": "on",
        "runtime": "bitbudget",
        "formats": "affine4g64, mxfp4",
        "encoder": "",
    }
    made = server.http.post("/submit", data=form, follow_redirects=False)
    request = server.job(made.headers["Location"].rsplit("/", 1)[1])["request"]
    assert request["joint_kv"]
    assert request["runtime"] == "bitbudget"
    assert request["formats"] == ["affine4g64", "mxfp4"]


def test_jobs_are_filtered_by_state_and_model(server: Server) -> None:
    first = server.submit(model="org/one")["id"]
    second = server.submit(model="org/two")["id"]
    server.http.post(f"/jobs/{first}/cancel")

    def listed(query: str) -> list[str]:
        return [job["id"] for job in server.http.get(f"/index.json?{query}").json()["jobs"]]

    assert listed("state=queued") == [second]
    assert listed("model=org/one") == [first]
    assert set(listed("")) == {first, second}


def test_tags_and_a_note_are_written_on_the_page_of_a_job(server: Server) -> None:
    sent = {"model": "org/one", "budget": "1GiB", "tags": "m4, release"}
    to = server.http.post("/submit", data=sent, follow_redirects=False).headers["location"]
    shown = server.http.get(to).text
    assert all(f'href="/?tag={tag}"' in shown for tag in ("m4", "release"))
    form = {"tags": "blog", "note": f"first\r\n{HOSTILE}"}
    assert server.http.post(f"{to}/labels", data=form).status_code == 200
    after = server.http.get(to).text
    assert "first\n&lt;script&gt;" in after
    assert HOSTILE not in after
    listed = server.http.get("/index.json?tag=blog").json()["jobs"]
    assert [job["note"] for job in listed] == [f"first\n{HOSTILE}"]
    assert server.http.get("/index.json?tag=m4").json()["jobs"] == []
    refused = server.http.post(f"{to}/labels", data={"tags": "no<tag"})
    assert (refused.status_code, "tags.0" in refused.text) == (422, True)


def test_an_unknown_address_is_a_page_for_people_and_a_problem_for_programs(
    server: Server,
) -> None:
    page = server.http.get("/nowhere", headers={"Accept": "text/html"})
    assert (page.status_code, "<nav" in page.text) == (404, True)
    for path, accept in (("/nowhere", "application/json"), ("/v1/nowhere", "text/html")):
        told = server.http.get(path, headers={"Accept": accept})
        assert told.headers["content-type"] == "application/problem+json"


def test_a_mac_that_was_chosen_answers_on_every_page(
    server: Server, measurement: Measurement
) -> None:
    answered(server, measurement)
    digest = server.http.get("/models.json").json()["models"][0]["digest"]
    kept = server.http.post("/my-mac", data={"device": "m4-pro-24gb", "to": "//elsewhere"})
    assert kept.url.path == "/"
    assert server.http.get("/index.json").json()["form"]["device"] == "m4-pro-24gb"
    shown = server.http.get(f"/models/{digest}.json").json()
    assert [card["context"] for card in shown["cards"]] == [256]  # the model's own limit
    assert shown["cards"][0]["budget"] > 0
    server.http.post("/my-mac", data={"device": ""})
    assert server.http.get(f"/models/{digest}.json").json()["cards"] == []
