from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from bitbudget.app.client.client import Client
from bitbudget.app.contract.events import Progress
from bitbudget.app.contract.followups import CompareText, FollowupEnd
from bitbudget.app.contract.home_token import HomeToken
from bitbudget.app.contract.leases import (
    Capabilities,
    LeaseGrant,
    LeaseResult,
    WorkerRegistration,
    WorkerWelcome,
)
from bitbudget.app.contract.steps import Step
from bitbudget.app.core.allocate import allocate
from bitbudget.app.core.effort import Effort
from bitbudget.app.core.encoders import Encoder
from bitbudget.app.core.layout import plan_checkpoint
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.core.solving import allocate_manifest
from tests.support.large import large_measurement
from tests.support.reports import benchmark, evaluation, job_result, text_comparison

pytestmark = pytest.mark.e2e
SHOTS = Path(__file__).resolve().parents[3] / "artifacts" / "screenshots"
MODEL = "org/model"


@dataclass
class Visitor:
    """A page in Chromium that remembers whatever should not have happened."""

    page: Page
    address: str
    scheme: str
    width: int = 1440
    faults: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.faults.append(f"script: {error}"))
        self.page.on("request", lambda request: self._request(request.url))

    def _console(self, message: object) -> None:
        kind, text = getattr(message, "type", ""), getattr(message, "text", "")
        if kind in ("error", "warning"):
            self.faults.append(f"console {kind}: {text}")

    def _request(self, url: str) -> None:
        if not url.startswith((f"{self.address}/", "data:")):
            self.faults.append(f"foreign request: {url}")

    def check(self, name: str) -> None:
        """Take a screenshot, run axe, and fail on anything remembered."""
        self.page.wait_for_load_state("networkidle")
        SHOTS.mkdir(parents=True, exist_ok=True)
        file = SHOTS / f"{name}-{self.scheme}-{self.width}.png"
        self.page.screenshot(path=file, full_page=True)
        reach = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert self.page.evaluate(reach) <= 0, "the page is wider than the screen"
        found = Axe().run(self.page).response["violations"]
        broken = [(v["id"], [node["html"] for node in v["nodes"]]) for v in found]
        assert broken == []
        assert self.faults == []

    def open(self, path: str) -> None:
        self.page.goto(f"{self.address}{path}")


@dataclass(frozen=True)
class Machine:
    """Does a job's steps from a ready measurement, at the test's pace."""

    client: Client
    welcome: WorkerWelcome
    measurement: Measurement

    def claim(self) -> LeaseGrant:
        lease = self.client.claim(self.welcome)
        assert lease is not None
        return lease

    def report(self, lease: LeaseGrant, step: Step, done: int) -> None:
        progress = Progress(step=step, done=done, total=2**20, detail=f"{step} part", seconds=1)
        self.client.renew(lease, progress)

    def preview(self, lease: LeaseGrant) -> None:
        """Give a first answer: the same curves, as if measured at quick effort."""
        quick = replace(self.measurement, effort=Effort.QUICK, encoder=Encoder.CAREFUL)
        manifest = allocate_manifest(quick, lease.request.at_effort(Effort.QUICK))
        self.client.put_artifact(lease, "first_measurement.json", quick.to_json())
        self.client.put_artifact(lease, "first_manifest.json", manifest.to_bytes())

    def finish(self, lease: LeaseGrant) -> None:
        measured, request = self.measurement, lease.request
        manifest = Manifest.build(
            measured, plan_checkpoint(measured.inventory), request, allocate(measured, request)
        )
        self.client.put_artifact(lease, "measurement.json", measured.to_json())
        self.client.put_artifact(lease, "manifest.json", manifest.to_bytes())
        self.client.put_artifact(lease, "evaluation.json", evaluation().to_json())
        self.client.put_artifact(lease, "benchmark.json", benchmark(speed=512.5).to_json())
        result = LeaseResult(
            attempt=lease.attempt,
            outcome="succeeded",
            result=job_result(manifest, checkpoint="/checkpoints/model"),
        )
        self.client.finish(lease, result)


@pytest.fixture
def machine(address: str, home: Path, measurement: Measurement) -> Iterator[Machine]:
    """A registered worker."""
    capabilities = Capabilities(
        chip="Apple M4 Pro", memory_bytes=24 * 2**30, backend="metal", mlx_version="0.32.4"
    )
    with Client(address, token=HomeToken(home).known()) as client:
        registration = WorkerRegistration(name="studio", capabilities=capabilities)
        yield Machine(client, client.register(registration), measurement)


@pytest.fixture(params=[("light", 1440), ("dark", 1440), ("light", 390), ("dark", 390)])
def visitor(
    request: pytest.FixtureRequest, browser: Browser, address: str, home: Path
) -> Iterator[Visitor]:
    """Somebody who prefers light or dark, at a desk or with a phone."""
    scheme: Literal["light", "dark"] = request.param[0]
    width: int = request.param[1]
    context = browser.new_context(
        color_scheme=scheme, reduced_motion="reduce", viewport={"width": width, "height": 900}
    )
    somebody = Visitor(context.new_page(), address, scheme, width)
    somebody.page.goto(HomeToken(home).link(f"{address}/"))
    assert somebody.page.url == f"{address}/"
    yield somebody
    context.close()


def submit(visitor: Visitor, budget: str) -> str:
    """Fill in the form as a person does; return the job's page."""
    page = visitor.page
    visitor.open("/")
    page.get_by_label("Model", exact=True).fill(MODEL)
    page.get_by_label("Budget of the files").fill(budget)
    page.get_by_label("Deliver").select_option("checkpoint")
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(MODEL)
    return page.url


@pytest.mark.parametrize("visitor", [("light", 1440), ("dark", 390)], indirect=True)
def test_the_whole_path_from_the_form_to_the_compared_answers(
    visitor: Visitor, machine: Machine
) -> None:
    page = visitor.page
    visitor.open("/")
    is_first = (visitor.scheme, visitor.width) == ("light", 1440)
    visitor.check("empty" if is_first else "list")
    address = submit(
        visitor, f"{(180 if visitor.scheme == 'light' else 190) + visitor.width % 7}kB"
    )
    expect(page.get_by_text("queued")).to_be_visible()
    visitor.check("queued")

    lease = machine.claim()
    machine.report(lease, Step.MEASURE, 2**19)
    expect(page.get_by_text("512.00 KiB of 1.00 MiB")).to_be_visible()
    expect(page.locator("[aria-current=step]")).to_have_text("measure")
    page.reload()
    expect(page.get_by_text("512.00 KiB of 1.00 MiB")).to_be_visible()
    visitor.check("running")
    if is_first:
        machine.preview(lease)
        expect(page.get_by_text("a first one at quick effort; standard")).to_be_visible()
        expect(page.get_by_role("button", name="Keep this answer and stop")).to_be_visible()
        visitor.check("first-answer")

    machine.finish(lease)
    if is_first:
        expect(page.get_by_text("Answer 2, at standard effort.")).to_be_visible()
        expect(page.get_by_role("link", name="manifest 1")).to_be_visible()
    expect(page.get_by_role("link", name="Download the manifest")).to_be_visible()
    expect(page.get_by_text("0.0123", exact=False).first).to_be_visible()
    expect(page.locator(".plot .main-svg").first).to_be_visible()
    visitor.check("job")
    names_lie_apart(page)

    try_it(visitor, machine)
    page.get_by_role("link", name="Move the budget").click()
    expect(page.get_by_role("slider")).to_be_visible()
    walk_the_slider(visitor)
    take_it(visitor)

    second = submit(visitor, "230kB")
    machine.finish(machine.claim())
    visitor.open(f"/compare?jobs={address.rsplit('/', 1)[1]}&jobs={second.rsplit('/', 1)[1]}")
    expect(page.get_by_role("heading", name="Side by side")).to_be_visible()
    visitor.check("compare")


def names_lie_apart(page: Page) -> None:
    """Draw the frontier with two measured points on uniform ones, and see no name on another."""
    drawn = page.evaluate(
        """async () => {
          const scripts = [...document.querySelectorAll("script.plot-data")];
          const data = scripts.find((e) => JSON.parse(e.textContent).series.some((s) => s.named));
          const plot = JSON.parse(data.textContent);
          const uniform = plot.series.find((series) => series.name === "uniform");
          const measured = { ...uniform, name: "measured", labels: ["this answer", "uniform"] };
          measured.x = uniform.x.slice(0, 2), measured.y = uniform.y.slice(0, 2);
          plot.series = [...plot.series.filter((s) => s.name !== "measured"), measured];
          data.textContent = JSON.stringify(plot);
          await draw(document);
          await new Promise((done) => setTimeout(done, 300));
          const names = [...data.previousElementSibling.querySelectorAll(".textpoint text")];
          return names.filter((e) => e.textContent.trim()).map((e) => {
            const box = e.getBoundingClientRect();
            return [e.textContent, box.left, box.top, box.right, box.bottom];
          });
        }"""
    )
    assert {"this answer", "uniform"} <= {name for name, *_ in drawn}
    for i, (_, left, top, right, bottom) in enumerate(drawn):
        for _, other_left, other_top, other_right, other_bottom in drawn[:i]:
            apart = left >= other_right or other_left >= right
            assert apart or top >= other_bottom or other_top >= bottom, drawn


def try_it(visitor: Visitor, machine: Machine) -> None:
    """Ask the worker for both texts, and read them."""
    page = visitor.page
    expect(page.get_by_text("bitbudget upload /checkpoints/model ORG/model-mixed")).to_be_visible()
    page.get_by_label("Prompt").fill("Once upon a time <b>")
    page.get_by_role("button", name="Compare the texts").click()
    expect(page.get_by_text("Waiting for studio")).to_be_visible()
    grant = machine.client.claim_followup(machine.welcome)
    assert grant is not None
    assert isinstance(grant.asked, CompareText)
    end = FollowupEnd(
        worker_id=machine.welcome.worker_id, result=text_comparison(grant.asked.prompt)
    )
    machine.client.end_followup(machine.welcome, grant.followup_id, end)
    expect(page.get_by_text("a little girl named Lily")).to_be_visible()
    expect(page.get_by_text("60.0 tokens/s")).to_be_visible()
    expect(page.get_by_label("Prompt")).to_have_value("Once upon a time <b>")
    visitor.check("tried")


def walk_the_slider(visitor: Visitor) -> None:
    """Move the budget and look into a module, with the keyboard alone."""
    page = visitor.page
    before = page.url
    slider = page.get_by_role("slider")
    slider.focus()
    page.keyboard.press("End")
    page.wait_for_url(lambda url: url != before and "budget=" in url)
    expect(page.locator(".heat td").first).to_contain_text("keep")
    page.keyboard.press("Home")
    expect(page.locator(".heat td").first).not_to_contain_text("keep")
    shared = page.url
    cell = page.locator(".heat a").first
    cell.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#tensor h2")).to_contain_text("model.layers.0")
    expect(page.locator("#tensor")).to_contain_text("times the going price")
    visitor.check("model")
    visitor.open(shared.removeprefix(visitor.address))
    expect(page.locator(".heat td").first).not_to_contain_text("keep")


def take_it(visitor: Visitor) -> None:
    """Type a budget, choose a Mac, and make the checkpoint."""
    page = visitor.page
    typed = page.get_by_label("Budget of the files")
    typed.fill("150kB")
    typed.press("Enter")
    expect(page.locator("#budget-words")).to_contain_text("146.48 KiB")
    page.get_by_label("On a device").select_option("m4-pro-24gb")
    expect(page.get_by_role("heading", name="256 tokens")).to_be_visible()
    expect(page.get_by_role("button", name="Copy command")).to_be_visible()
    visitor.check("take")
    shared = page.url
    page.get_by_role("link", name="Every Mac").click()
    expect(page.get_by_role("rowheader").first).to_be_visible()
    visitor.check("guide")
    page.goto(shared)
    page.get_by_role("button", name="Make this checkpoint").click()
    expect(page.get_by_text("queued")).to_be_visible()
    page.get_by_role("button", name="Keep this answer and stop").click()
    expect(page.get_by_role("heading", name="Cancelled", exact=True)).to_be_visible()
    expect(page.get_by_role("button", name="Try again")).to_be_visible()
    visitor.check("cancelled")
    page.get_by_role("link", name="Duplicate with changes").click()
    expect(page.get_by_label("Budget of the files")).to_have_value("150000")


def test_a_model_of_64_layers_and_128_experts_is_searched_and_not_cut(
    visitor: Visitor, home: Path
) -> None:
    page = visitor.page
    with Client(visitor.address, token=HomeToken(home).known()) as client:
        found = client.import_measurement(large_measurement().to_json())
    chosen = "model.layers.5.mlp.switch_mlp.down_proj"
    visitor.open(f"/models/{found.model.digest}?module={chosen}")
    expect(page.locator("#tensor")).to_contain_text("128 experts in one format")
    heat = page.locator(".heatmap")
    assert heat.evaluate("(e) => e.scrollWidth <= e.clientWidth"), "columns are cut"
    heat.evaluate("(e) => e.scrollTo(0, 900)")
    below = "(e) => e.getBoundingClientRect().top - document.querySelector('.heatmap')"
    head = page.get_by_role("columnheader", name="router")
    assert head.evaluate(f"{below}.getBoundingClientRect().top") < 1, "the heads scroll away"
    page.get_by_label("Find modules or layers").fill("experts down 12-20")
    expect(page.locator("#sought")).to_have_text("1 module in 9 layers")
    cells = page.locator(".heat a:visible")
    expect(cells).to_have_count(9)
    cells.first.click()
    expect(page.locator("#tensor h2")).to_have_text(chosen.replace(".5.", ".12."))
    expect(page.locator(".heat a:visible")).to_have_count(9)
    visitor.check("experts")


@pytest.mark.parametrize("name", ["models", "machines", "benchmarks", "compare"])
def test_the_other_pages(visitor: Visitor, name: str) -> None:
    visitor.open(f"/{name}")
    expect(visitor.page.get_by_role("heading", level=1)).to_have_text(name.capitalize())
    reach = "[...document.querySelectorAll('.scroll')].filter((e) => e.scrollWidth > e.clientWidth)"
    if visitor.width < 400:
        assert visitor.page.evaluate(f"{reach}.length") == 0, "a table is cut"
    visitor.check(name)
    twin = visitor.page.request.get(f"{visitor.address}/{name}.json")
    assert twin.json()["title"] == name.capitalize()


def test_a_stranger_with_a_phone_is_asked_to_sign_in_on_every_page(
    browser: Browser, address: str
) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 900})
    somebody = Visitor(context.new_page(), address, "stranger", 390)
    for name in ("", "models", "machines", "benchmarks", "compare", "docs", "nowhere"):
        somebody.open(f"/{name}")
        expect(somebody.page.get_by_role("heading", level=1)).to_be_visible()
        somebody.faults = [fault for fault in somebody.faults if "status of 40" not in fault]
        somebody.check(f"sign-in-{name or 'index'}")
    context.close()


def test_plotly_is_loaded_only_where_a_plot_is(visitor: Visitor) -> None:
    visitor.open("/machines")
    assert visitor.page.evaluate("typeof window.Plotly") == "undefined"


def test_what_is_wrong_with_a_form_is_said_beside_it(visitor: Visitor) -> None:
    page = visitor.page
    visitor.open("/")
    page.get_by_label("Model", exact=True).fill("org/unknown")
    page.get_by_label("Budget of the files").fill("5 parsecs")
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_role("alert")).to_contain_text("5 parsecs")
    expect(page.get_by_label("Model", exact=True)).to_have_value("org/unknown")
    visitor.faults = [fault for fault in visitor.faults if "422" not in fault]
    visitor.check("refused")


def test_the_api_is_described_on_a_page_like_the_others(visitor: Visitor) -> None:
    visitor.open("/docs")
    submit_job = visitor.page.locator("#submitJob")
    submit_job.get_by_text("Fields and answers").click()
    submit_job.get_by_role("link", name="JobSubmission").click()
    schema = visitor.page.locator("#schema-JobSubmission")
    expect(schema).to_be_in_viewport()
    expect(schema.get_by_text("budget", exact=True)).to_be_visible()
    visitor.check("api")
