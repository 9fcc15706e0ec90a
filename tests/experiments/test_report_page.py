"""The page is whole, harmless and honest: one file, nothing loaded, everything escaped, floors beside."""

import base64
from html.parser import HTMLParser

import pytest
import torch

from common.errors import ArtifactError, RunError
from common.volume.spec import VolumeSpec
from experiments.montage import montage
from experiments.report.data import Picture, ReportData
from experiments.report.history import RunHistory
from experiments.report.page import render_report
from experiments.report.words import bytes_in_words, duration, listed

HOSTILE = "<script>alert('x')</script>&\"<img src=http://evil.example/x onerror=y>"
VOID = {"meta", "img", "br", "path", "circle", "link"}


class Page(HTMLParser):
    """Collects tags and text, and fails on tags that do not close in order."""

    def __init__(self, source):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.attributes, self.text = [], [], [], ""
        self.feed(source)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attributes]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attributes]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in {"style"}:
            self.text += data


def events(site="site-a", metric="loss", rounds=3):
    facts = {"seconds": 4.0, "bytes_up": 1_000_000, "bytes_down": 2_000_000}
    return [
        {"event": "run_started", "time": "2026-03-02T09:15:00+00:00"},
        *(
            {
                "event": "round_finished",
                "stage": stage,
                "round": k,
                "sites": {s: {"seconds": 3.0, "metrics": {metric: 1 / k}} for s in (site, "site-b")},
                **facts,
            }
            for stage in ("codec", "diffusion")
            for k in range(1, rounds + 1)
        ),
        {"event": "run_finished"},
    ]


@pytest.fixture
def picture(tmp_path):
    spec = VolumeSpec(shape=(16, 16, 16), spacing_mm=(1, 1, 1))
    path = montage({"real": torch.zeros(1, 1, 16, 16, 16)}, tmp_path / "pictures" / "m.png", spec)
    return Picture(path, "Real and synthetic", "Look for blur.")


def data(picture, **changes):
    fields = {
        "study_name": "hippocampus",
        "study_digest": "9f86d081884c7d65",
        "study_yaml": "name: hippocampus\nseed: 7\n",
        "history": RunHistory.from_events(events()),
        "versions": {"torch": "2.13.0"},
        "metrics": {
            "synthetic": {
                "n": 8,
                "mmd": {"estimate": 0.0839, "low": 0.04, "high": 0.13},
                "mmd_floor": -0.0021,
            }
        },
        "pictures": (picture,),
        "site_sizes": {"site-a": {"patients": 12, "volumes": 20}},
        "sampler": {"sampler": "heun", "seed": 7},
        "num_synthetic": 64,
        "notes": ("A simulation on one machine.",),
    }
    return ReportData(**(fields | changes))


def rendered(tmp_path, report):
    return render_report(report, tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_the_page_says_what_happened_in_words(tmp_path, picture):
    text = Page(rendered(tmp_path, data(picture))).text
    assert (
        "2 sites (site-a and site-b) trained one generator of 3D images, each on its own volumes: "
        "3 rounds for the codec and 3 rounds for the diffusion model, 24 s in all. Between the sites and the "
        "server 18.0 MB of model parameters travelled, and no image. The trained model then drew 64 "
        "synthetic volumes." in text
    )


def test_everything_of_the_run_is_on_the_page(tmp_path, picture):
    text = Page(rendered(tmp_path, data(picture))).text
    for expected in (
        "finished", "2026-03-02 09:15 UTC", "Codec (VQ-GAN)", "Latent diffusion", "Look for blur.",
        "0.0839", "95 %: 0.0400 to 0.1300", "real against real −0.0021", "8 volumes a set", "12", "heun",
        "A simulation on one machine.", "without differential privacy", "One training seed",
        "2.13.0", "seed: 7",
    ):  # fmt: skip
        assert expected in text


def test_the_first_picture_opens_the_page_unchanged(tmp_path, picture):
    page = Page(rendered(tmp_path, data(picture)))
    sources = [value for tag, name, value in page.attributes if (tag, name) == ("img", "src")]
    assert [base64.b64decode(s.removeprefix("data:image/png;base64,")) for s in sources] == [
        picture.path.read_bytes()
    ]
    assert page.tags.index("img") < page.tags.index("svg")


def test_there_is_a_chart_per_stage_and_a_line_per_site(tmp_path, picture):
    source = rendered(tmp_path, data(picture))
    assert source.count('role="img"') == 2
    assert source.count("<circle") == 2 * 2 * 3


def test_nothing_is_loaded_or_run(tmp_path, picture):
    source = rendered(tmp_path, data(picture))
    page = Page(source)
    assert not {"script", "link", "iframe", "object", "form"} & set(page.tags)
    assert "http:" not in source
    assert "https:" not in source
    assert "@import" not in source
    assert "url(" not in source
    policy = next(
        v for tag, n, v in page.attributes if tag == "meta" and n == "content" and "default-src" in v
    )
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@pytest.mark.parametrize(
    "changes",
    [
        {"study_name": HOSTILE},
        {"study_digest": HOSTILE},
        {"study_yaml": HOSTILE},
        {"history": RunHistory.from_events(events(site=HOSTILE, metric=HOSTILE))},
        {"history": RunHistory.from_events([*events(), {"event": "site_missing", "site": HOSTILE}])},
        {"history": RunHistory.from_events([{"event": "run_started", "time": HOSTILE}])},
        {"history": RunHistory.from_events([e | {"stage": HOSTILE} for e in events()])},
        {"versions": {HOSTILE: HOSTILE}},
        {"metrics": {HOSTILE: {HOSTILE: {HOSTILE: 1.0, "n": 3}}}},
        {"site_sizes": {HOSTILE: {HOSTILE: 1}}},
        {"sampler": {HOSTILE: HOSTILE}},
        {"notes": (HOSTILE,)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_hostile_text_stays_text(tmp_path, picture, changes):
    page = Page(rendered(tmp_path, data(picture, **changes)))
    assert "script" not in page.tags
    assert page.tags.count("img") == 1
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert "<script>" in page.text


def test_hostile_captions_stay_text(tmp_path, picture):
    hostile = Picture(picture.path, HOSTILE, HOSTILE)
    page = Page(rendered(tmp_path, data(picture, pictures=(hostile, hostile))))
    assert page.tags.count("img") == 2
    assert "script" not in page.tags


def test_a_run_that_has_only_begun_still_has_a_page(tmp_path):
    report = ReportData("demo", "ab", "name: demo\n", RunHistory(), {})
    text = Page(rendered(tmp_path, report)).text
    assert "not finished" in text
    assert "No round is finished yet" in text


def test_an_unfinished_run_says_so(tmp_path, picture):
    page = Page(
        rendered(tmp_path, data(picture, history=RunHistory.from_events(events()[:-1]), num_synthetic=0))
    )
    assert "have been training" in page.text
    assert "No synthetic volumes have been drawn yet." in page.text


def test_the_same_run_gives_the_same_page(tmp_path, picture):
    assert rendered(tmp_path, data(picture)) == rendered(tmp_path / "again", data(picture))


def test_a_missing_picture_is_named_and_the_earlier_report_stays(tmp_path, picture):
    path = render_report(data(picture), tmp_path / "report.html")
    before = path.read_bytes()
    gone = Picture(tmp_path / "gone.png", "a", "b")
    with pytest.raises(RunError, match=r"gone\.png of the report is missing"):
        render_report(data(picture, pictures=(gone,)), path)
    assert path.read_bytes() == before


def test_a_full_disk_leaves_the_earlier_report(tmp_path, picture, monkeypatch):
    path = render_report(data(picture), tmp_path / "report.html")
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ArtifactError, match="No space left"):
        render_report(data(picture, study_name="other"), path)
    assert path.read_bytes() == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["pictures", "report.html"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.6, "1 min 0 s"),
        (3599.6, "1 h 0 min"),
        (7260, "2 h 1 min"),
    ],
)
def test_durations_never_say_sixty(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (99_600, "100 kB"),
        (1_250_000, "1.2 MB"),
        (2.5e12, "2500.0 GB"),
    ],
)
def test_bytes_are_in_decimal_units(count, text):
    assert bytes_in_words(count) == text


def test_lists_end_with_and():
    assert [listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])] == ["a", "a and b", "a, b and c"]
