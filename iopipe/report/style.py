"""The looks of the HTML report: one style sheet, light and dark, no fonts or files to load.

Stands beside `html`.  Invariant: any two causes can be told apart with full colour vision
and without red, green or blue cones (a test computes it), and their names stand beside them
as text.
"""

from __future__ import annotations

from collections.abc import Mapping

CAUSE_COLORS: Mapping[str, str] = {
    "storage": "#0b5daf",
    "decode": "#c53504",
    "transform": "#d388c0",
    "collate": "#5091ff",
    "queue": "#6b6b6b",
    "h2d": "#0abf62",
    "gpu_decode": "#901b0f",
    "loader": "#e18c00",
}
"""After Okabe and Ito (Color Universal Design, 2008), moved apart by search."""

CSS = """
:root { color-scheme: light dark;
  --ink: #1c2430; --soft: #5b6675; --line: #dfe4ea; --page: #ffffff; --card: #f6f8fa;
  --busy: #e1e5ea; --accent: #0b5cad; }
@media (prefers-color-scheme: dark) { :root {
  --ink: #e7ecf2; --soft: #9aa7b6; --line: #2f3945; --page: #12171d; --card: #1a2129;
  --busy: #2b343e; --accent: #6db3f2; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 2rem 1.25rem 4rem; background: var(--page);
  color: var(--ink); font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { font-size: 1.05rem; font-weight: 600; color: var(--soft); margin: 0 0 .5rem; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem; }
.verdict { font-size: clamp(1.25rem, 3.2vw, 1.8rem); line-height: 1.3; font-weight: 650;
  margin: 0 0 1.5rem; text-wrap: balance; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: .5rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .5rem .85rem; text-align: right; white-space: nowrap; }
th { font-weight: 600; color: var(--soft); font-size: .875rem; }
th:first-child, td:first-child { text-align: left; white-space: normal; min-width: 9rem; }
tbody tr { border-top: 1px solid var(--line); }
.run { background: var(--card); border: 1px solid var(--line); border-radius: .5rem;
  padding: 1rem 1.1rem; margin: 0 0 1rem; }
.run h3 { font-size: 1rem; margin: 0; }
.run p { margin: .15rem 0 .75rem; color: var(--soft); font-size: .925rem; }
svg { display: block; width: 100%; height: 4.5rem; border-radius: .25rem; background: var(--page);
  shape-rendering: crispEdges; }
.busy { fill: var(--busy); }
.axis { display: flex; justify-content: space-between; color: var(--soft); font-size: .8rem;
  margin-top: .25rem; font-variant-numeric: tabular-nums; }
.legend { display: flex; flex-wrap: wrap; gap: .35rem 1.1rem; padding: 0; margin: .75rem 0 0;
  list-style: none; font-size: .875rem; }
.legend i { display: inline-block; width: .8rem; height: .8rem; border-radius: .15rem;
  margin-right: .4rem; vertical-align: -.08rem; }
.busy-key { background: var(--busy); border: 1px solid var(--soft); }
.run .numbers { margin: .75rem 0 0; }
details { margin-top: .9rem; font-size: .875rem; }
summary { cursor: pointer; color: var(--accent); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.25rem; margin: 0;
  font-size: .9rem; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 32rem) { body { padding: 1.25rem .9rem 3rem; }
  th, td { padding: .45rem .5rem; } .run { padding: .85rem .8rem; } }
footer { margin-top: 3rem; color: var(--soft); font-size: .85rem; }
"""
