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
    "launch": "#b1c9b2",
    "other_host": "#533161",
}
"""After Okabe and Ito (Color Universal Design, 2008), moved apart by search.  The last two
are pale: they are idle time that is not the input's."""

_SWATCHES = "".join(
    f".c-{name} {{ background: {color}; fill: {color}; }}\n" for name, color in CAUSE_COLORS.items()
)

CSS = (
    _SWATCHES
    + """
:root { color-scheme: light dark;
  --ink: #1c2430; --soft: #5b6675; --line: #dfe4ea; --page: #ffffff; --card: #f6f8fa;
  --busy: #e1e5ea; --accent: #0b5cad; --band: #b9d2ec; --veil: #ffffffb8;
  --over: #c53504; }
@media (prefers-color-scheme: dark) { :root {
  --ink: #e7ecf2; --soft: #9aa7b6; --line: #2f3945; --page: #12171d; --card: #1a2129;
  --busy: #2b343e; --accent: #6db3f2; --band: #2c4a67; --veil: #12171dc0;
  --over: #ff7a4d; } }
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
.run > svg { display: block; width: 100%; height: 4.5rem; border-radius: .25rem;
  background: var(--page); shape-rendering: crispEdges; }
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
.lead { color: var(--soft); margin: -.9rem 0 1.5rem; max-width: 46rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .75rem;
  margin: 0 0 1rem; }
.tile { border: 1px solid var(--line); border-radius: .5rem; padding: .65rem .85rem; }
.tile b { display: block; font-size: 1.35rem; font-weight: 620; line-height: 1.25;
  font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: .825rem; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .5rem;
  padding: 1rem 1.1rem; }
.note { color: var(--soft); font-size: .875rem; margin: .6rem 0 0; }
.head { display: flex; align-items: baseline; justify-content: space-between; gap: 1rem;
  flex-wrap: wrap; margin: 2.5rem 0 .75rem; }
.head h2 { margin: 0; }
.buttons { display: flex; gap: .35rem; }
button { font: inherit; font-size: .875rem; color: var(--ink); background: var(--page);
  border: 1px solid var(--line); border-radius: .375rem; padding: .3rem .75rem; cursor: pointer; }
button:hover { border-color: var(--soft); }
canvas { display: block; width: 100%; touch-action: pan-y; border-radius: .25rem; cursor: grab; }
#steps { height: 17rem; }
#overview { height: 2.25rem; margin-top: .5rem; cursor: ew-resize; }
canvas:focus-visible, button:focus-visible { outline: 2px solid var(--accent);
  outline-offset: 2px; }
#readout { min-height: 2.9em; margin: .6rem 0 0; font-size: .875rem; color: var(--soft);
  font-variant-numeric: tabular-nums; }
#readout b { color: var(--ink); font-weight: 600; }
.bars { display: grid; grid-template-columns: minmax(6.5rem, max-content) 1fr max-content;
  gap: .55rem .9rem; align-items: center; font-size: .9rem;
  font-variant-numeric: tabular-nums; }
.bars .name { overflow-wrap: anywhere; }
.bars .value { text-align: right; color: var(--soft); white-space: nowrap; }
.bars svg, .whole svg { display: block; width: 100%; height: 1rem; border-radius: .2rem;
  shape-rendering: crispEdges; }
.whole svg { height: 1.6rem; border-radius: .25rem; }
.rail { fill: var(--busy); } .fill { fill: var(--accent); } .pale { fill: var(--accent);
  opacity: .32; } .mark { fill: var(--ink); } .wait { fill: var(--over); }
.key-fill { background: var(--accent); } .key-pale { background: var(--accent); opacity: .32; }
.key-mark { background: var(--ink); width: .15rem !important; }
.key-bound { background: var(--soft); width: .15rem !important; } .bound { fill: var(--soft); }
.bar { display: contents; }
@media (max-width: 32rem) { .bars { grid-template-columns: 1fr; gap: .7rem; }
  .bar { display: grid; grid-template-columns: minmax(9rem, 1fr) auto; gap: .2rem .75rem; }
  .bar svg { grid-row: 2; grid-column: 1 / -1; height: .7rem; }
  .bar .name { grid-row: 1; grid-column: 1; }
  .bar .value { grid-row: 1; grid-column: 2; font-size: .825rem; white-space: normal; }
  #steps { height: 15rem; } .card { padding: .85rem .8rem; } dl { grid-template-columns: 1fr; }
  dd { margin: 0 0 .4rem; } }
.curves { display: block; width: 100%; height: auto; }
.curves text { fill: var(--soft); font-size: 12px; font-variant-numeric: tabular-nums; }
.curves .label { fill: var(--ink); font-weight: 600; }
.grid { stroke: var(--line); fill: none; }
.line { fill: none; stroke: var(--series); stroke-width: 2; }
.dashed { stroke-dasharray: 5 4; stroke-width: 1.5; } .mark-of { fill: var(--series); }
.key { width: 1.75rem; height: .875rem; margin-right: .4rem; vertical-align: -.1rem; }
.s0 { --series: #0b5daf; } .s1 { --series: #c53504; } .s2 { --series: #0a8a48; }
.s3 { --series: #a0559b; } .s4 { --series: #b26e00; } .s5 { --series: #2b8fa8; }
.s6 { --series: #6b6b6b; } .s7 { --series: #5a4fcf; }
@media (prefers-color-scheme: dark) {
  .s0 { --series: #6db3f2; } .s1 { --series: #ff7a4d; } .s2 { --series: #3ed68a; }
  .s3 { --series: #d88fd2; } .s4 { --series: #f0b23a; } .s5 { --series: #63cfe8; }
  .s6 { --series: #b0b0b0; } .s7 { --series: #a99bff; } }
"""
)
