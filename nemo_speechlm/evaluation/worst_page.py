"""A page of the worst utterances of a test set: one HTML file that needs nothing else."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from nemo_speechlm.data.audio.sources import audio_source
from nemo_speechlm.evaluation.report import NAMES, percent
from nemo_speechlm.files import Record, atomic_write

_STYLE = """
:root { --paper: #fbfaf7; --ink: #23211d; --soft: #77726a; --line: #e3dfd6; --card: #fff; --wrong: #b3261e;
  --wrong-bed: #fbe6e2; --lost: #8a5a00; --lost-bed: #fbefd6; --added: #20558a; --added-bed: #e0edf9; --bar: #d98c7c; }
@media (prefers-color-scheme: dark) { :root { --paper: #1b1a18; --ink: #ebe7de; --soft: #a09a8e; --line: #37342f;
  --card: #242220; --wrong: #ff9d8f; --wrong-bed: #4a2620; --lost: #f0c571; --lost-bed: #43361a; --added: #9cc7f2;
  --added-bed: #1f3447; --bar: #a55a4b; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.25rem 5rem; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2.5rem 0 .75rem; }
.soft, small { color: var(--soft); } .soft { margin: .25rem 0 0; overflow-wrap: anywhere; }
.totals { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1.5rem 0 0; padding: 0; list-style: none; }
.totals li { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .7rem 1.1rem; }
.totals b { display: block; font-size: 1.5rem; font-variant-numeric: tabular-nums; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .2rem .9rem .2rem 0; } th:first-child, td:first-child { text-align: left; }
th { color: var(--soft); font-weight: 500; border-bottom: 1px solid var(--line); }
td.bar { width: 12rem; text-align: left; } td.bar i { display: block; height: .55rem; border-radius: .3rem;
  background: var(--bar); }
article { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .9rem 1.1rem;
  margin: 0 0 .8rem; }
article header { display: flex; flex-wrap: wrap; gap: .3rem 1rem; align-items: baseline; }
article header b { font-variant-numeric: tabular-nums; } article header span { overflow-wrap: anywhere; }
.words { display: flex; flex-wrap: wrap; gap: .35rem .3rem; margin: .6rem 0 .2rem; }
.pair { display: inline-grid; justify-items: center; padding: 0 .3rem; border-radius: .3rem; line-height: 1.4; }
.pair span:first-child { color: var(--soft); } .pair span { min-height: 1.4em; }
.sub { background: var(--wrong-bed); } .sub span:last-child { color: var(--wrong); }
.del { background: var(--lost-bed); } .del span:first-child { color: var(--lost); text-decoration: line-through; }
.ins { background: var(--added-bed); } .ins span:last-child { color: var(--added); }
audio { height: 2rem; width: 100%; max-width: 24rem; margin-top: .4rem; }
.key { display: flex; flex-wrap: wrap; gap: .5rem 1.2rem; font-size: .9rem; }
.key i { font-style: normal; padding: 0 .4rem; border-radius: .3rem; }
"""


def write_page(
    path: str | Path, records: Sequence[Record], summary: Mapping[str, Any], manifest: str | Path, count: int = 100
) -> None:
    """Write the page.

    Args:
        path: the file.
        records: of a :class:`~nemo_speechlm.evaluation.report.RecognitionReport`.
        summary: the report's.
        manifest: where the records come from; their audio can be played if it is still there.
        count: utterances to show: those with most wrong words, and among equals those with the higher rate.
    """
    shown = sorted(range(len(records)), key=lambda i: _badness(records[i]), reverse=True)[:count]
    title = f"{summary.get('model', 'Model')} on {summary.get('manifest', manifest)}"
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        '<meta name=viewport content="width=device-width, initial-scale=1">',
        f"<title>Worst utterances: {escape(title)}</title><style>{_STYLE}</style><main>",
        f"<h1>Worst utterances</h1><p class=soft>{escape(title)}</p>",
        _totals(summary),
        *(_split(name, values, summary) for name, values in summary.get("splits", {}).items()),
        f"<h2>{len(shown)} of {len(records)} utterances, those with most errors first</h2>",
        "<p class='key soft'><span>reference above, recognized below</span><i class=sub>another word</i>"
        "<i class=del>lost</i><i class=ins>added</i></p>",
        *(_utterance(records[i], manifest) for i in shown),
        "</main></html>\n",
    ]
    with atomic_write(path) as file:
        file.write("\n".join(parts))


def _badness(record: Record) -> tuple[float, float]:
    counts = record["words"]
    wrong = counts["substitutions"] + counts["insertions"] + counts["deletions"]
    return wrong, wrong / max(counts["length"], 1)


def _totals(summary: Mapping[str, Any]) -> str:
    cells = []
    for rate in NAMES:
        if rate not in summary:
            continue
        interval = summary.get(f"{rate}_interval")
        between = f"<br>{percent(interval[0])} to {percent(interval[1])}" if interval else ""
        of = f"{summary[NAMES[rate]]['length']:,} {NAMES[rate]}"
        cells.append(
            f"<li><small>{rate.upper()}</small><b>{percent(summary[rate])}</b><small>of {of}{between}</small>"
        )
    cells.append(f"<li><small>utterances</small><b>{summary['utterances']:,}</b>")
    return f"<ul class=totals>{''.join(cells)}</ul>"


def _split(name: str, values: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    rates = [rate for rate in NAMES if rate in summary]
    worst = max((part["wer"] or 0.0 for part in values.values()), default=0.0) or 1.0
    head = "".join(f"<th>{rate.upper()}" for rate in rates)
    rows = "".join(
        f"<tr><td>{escape(value)}<td>{part['utterances']}"
        + "".join(f"<td>{percent(part[rate])}" for rate in rates)
        + f"<td class=bar><i style='width:{100 * (part['wer'] or 0.0) / worst:.0f}%'></i>"
        for value, part in sorted(values.items(), key=lambda item: -(item[1]["wer"] or 0.0))
    )
    return f"<h2>By {escape(name)}</h2><table><tr><th>{escape(name)}<th>utterances{head}<th>{rows}</table>"


def _utterance(record: Record, manifest: str | Path) -> str:
    pairs = "".join(_pair(reference, hypothesis) for reference, hypothesis in record["alignment"])
    rates = " · ".join(f"{rate.upper()} {percent(record[rate])}" for rate in NAMES if rate in record)
    path = audio_source(record, manifest, 0)
    player = ""
    if isinstance(path, Path) and path.is_file():
        start = record.get("offset")
        part = "" if start is None else f"#t={start},{start + record.get('duration', 0)}"
        player = f'<audio controls preload=none src="{escape(path.resolve().as_uri() + part)}"></audio>'
    details = [f"{record['duration']:.1f} s"] if isinstance(record.get("duration"), int | float) else []
    details += [str(record[key]) for key in ("speaker",) if record.get(key) is not None]
    return (
        f"<article><header><b>{rates}</b><span class=soft>{escape(str(record['audio_filepath']))}"
        f" · {escape(' · '.join(details))}</span></header><div class=words>{pairs}</div>{player}</article>"
    )


def _pair(reference: str | None, hypothesis: str | None) -> str:
    kind = "ins" if reference is None else "del" if hypothesis is None else "" if reference == hypothesis else "sub"
    words = "".join(f"<span>{escape(word or '')}</span>" for word in (reference, hypothesis))
    return f"<span class='pair {kind}'>{words}</span>"
