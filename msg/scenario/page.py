"""The report as one page of HTML: what failed, why, the picture, and everything behind it."""

from collections.abc import Iterator
from html import escape

from msg.scenario.findings import Report, by_rank, chief, errors_of
from msg.scenario.journal import Event
from msg.scenario.picture import picture
from msg.show.tree_svg import tree_svg
from msg.show.tree_text import waits_of

ROWS_MAX = 5000  # of the timeline; all of it is in timeline.txt

STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 1270px;
  padding: 0 16px 60px; color: #222; background: #fff }
h1 { font-size: 20px; margin: 18px 0 2px } h2 { font-size: 15px; margin: 22px 0 6px }
.verdict { display: inline-block; padding: 2px 10px; border-radius: 4px; color: #fff;
  font-weight: 700; background: #cc0000; margin-right: 8px } .verdict.ok { background: #38761d }
.why { color: #555; max-width: 900px; margin: 2px 0 8px } .sub { color: #555 }
ol.wrong { margin: 4px 0; padding-left: 26px } ol.wrong li:first-child { font-weight: 600 }
ol.wrong li::marker { color: #cc0000; font-weight: 700 }
table.story { border-collapse: collapse }
table.story td { padding: 1px 12px 1px 0; vertical-align: top }
table.story .at { color: #777; text-align: right; font-variant-numeric: tabular-nums }
.t-fault td { color: #b45f06; font-weight: 600 } .t-wrong td { color: #cc0000; font-weight: 700 }
pre { background: #f6f6f4; padding: 10px 12px; border-radius: 4px; overflow-x: auto;
  font-size: 12.5px }
.scroll { overflow-x: auto } summary { cursor: pointer; font-weight: 600; margin: 14px 0 4px }
.legend { color: #555; font-size: 12px } .legend b { font-weight: 600 }
table.time { font: 12px/1.35 ui-monospace, monospace; border-collapse: collapse }
table.time td { padding: 0 10px 0 0; white-space: pre } table.time .fault { color: #b45f06 }
table.time .mine { background: #f6e6fb } table.time .check { color: #cc0000 }
"""

LEGEND = (
    '<p class="legend"><b style="color:#3c78d8">▲</b> publishes (full) and is acked (hollow)'
    ' · <b style="color:#45818e">●</b> gets a message · <b style="color:#38761d">●</b> acks it'
    ' · <b style="color:#e69138">●</b> gives it back or is put off'
    ' · <b style="color:#cc0000">✕</b> an error · <b style="color:#b45f06">⚡</b> a fault'
    ' · <b style="color:#a000c8">thick</b>: the message that it is about'
    ' · <b style="color:#cc0000">numbers</b>: what did not hold'
    " · ‖ time in which nothing happens, folded · a bar: connected, or serving</p>"
)


def page(report: Report, drawn: str) -> str:
    """The whole page. `drawn` is the picture of the run that is told."""
    outcome = report.outcome
    name = escape(outcome.scenario.name)
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        f"<title>{name}: {'holds' if outcome.holds else 'does not hold'}</title>",
        f"<style>{STYLE}</style></head><body>",
        *_head(report),
        *_story(report),
        *_pictured(report, drawn),
        *_replay(report),
        *_behind(report),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _head(report: Report) -> Iterator[str]:
    outcome = report.outcome
    scenario = outcome.scenario
    kind, word = ("ok", "holds") if outcome.holds else ("", "does not hold")
    yield f'<h1><span class="verdict {kind}">{word}</span>{escape(scenario.title)}</h1>'
    yield (
        f'<p class="sub">{escape(scenario.name)} · {outcome.engine} engine · seed {outcome.seed}'
        f" · {len(outcome.events)} events · {outcome.checks} checks of the books</p>"
    )
    yield f'<p class="why">{escape(scenario.why.strip())}</p>'
    if outcome.violations:
        yield '<h2>What did not hold</h2><ol class="wrong">'
        yield from (f"<li>{escape(str(v))}</li>" for v in by_rank(report.small)[:9])
        yield "</ol>"


def _story(report: Report) -> Iterator[str]:
    if not report.told:
        return
    yield '<h2>How it came about</h2><table class="story">'
    for line in report.told:
        tone = f' class="t-{line.tone}"' if line.tone else ""
        yield f'<tr{tone}><td class="at">{line.at:.4f} s</td><td>{escape(line.text)}</td></tr>'
    yield "</table>"


def _pictured(report: Report, drawn: str) -> Iterator[str]:
    of = "The run" if report.shrunk is None else "The smallest run that fails so"
    yield f'<h2>{of}</h2><div class="scroll">{drawn}</div>{LEGEND}'


def _replay(report: Report) -> Iterator[str]:
    engine = "" if report.outcome.engine == "sim" else " --engine process"
    lines = [f"trio-msg chaos scenario.toml{engine}"]
    if report.shrunk is not None:
        lines.append("trio-msg chaos shrunk.toml")
    yield "<h2>Replay it, in this folder</h2>"
    yield f"<pre>{escape(chr(10).join(lines))}</pre>"
    if report.shrunk is not None:
        yield f"<h2>shrunk.toml, found in {report.shrunk.runs} runs</h2>"
        yield f"<pre>{escape(report.shrunk_scenario)}</pre>"


def _behind(report: Report) -> Iterator[str]:
    outcome = report.outcome
    for text, count in errors_of(outcome).items():
        last = text.rpartition("\n")[2] + (f", {count} times" if count > 1 else "")
        yield f"<details><summary>An error of the broker: {escape(last)}</summary>"
        yield f"<pre>{escape(text)}</pre></details>"
    if report.tree:
        tree = tree_svg(report.tree, waits_of(report.tree))
        yield "<details open><summary>The actors at the moment of failure</summary>"
        yield f'<div class="scroll">{tree}</div></details>'
    if report.shrunk is not None:
        first = chief(outcome)
        whole = picture(outcome.events, by_rank(outcome), first.key if first is not None else "")
        yield "<details><summary>The run that was found first, not shrunk</summary>"
        yield f'<div class="scroll">{whole}</div></details>'
    yield "<details><summary>scenario.toml</summary>"
    yield f"<pre>{escape(report.scenario)}</pre></details>"
    yield from _timeline(report)


def _timeline(report: Report) -> Iterator[str]:
    small = report.small
    keys = {violation.key for violation in small.violations if violation.key}
    yield f"<details><summary>The timeline: {len(small.events)} events"
    yield '</summary><table class="time">'
    yield from (_row(event, keys) for event in small.events[:ROWS_MAX])
    yield "</table>"
    if len(small.events) > ROWS_MAX:
        yield f"<p>… and {len(small.events) - ROWS_MAX} more: timeline.txt has all.</p>"
    yield "</details>"


def _row(event: Event, keys: set[str]) -> str:
    mine = "mine" if event.what.get("key") in keys else ""
    lane = event.lane if event.lane in ("fault", "check") else ""
    return f'<tr class="{mine} {lane}"><td>{escape(event.line())}</td></tr>'
