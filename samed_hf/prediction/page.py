"""The page of a prediction run, a Jinja template: one file, no scripts, readable offline, in the dark and on paper."""

from __future__ import annotations

__all__ = ["PAGE"]

_STYLE = """
:root { color-scheme: light dark; --ground: #fff; --panel: #f5f7f9; --ink: #1b2430; --soft: #5b6876; --line: #d9dfe5;
  --accent: #0b63b0; --warn: #9a5300; --warn-ground: #fdf1e0; --bad: #ad1f2d; --bad-ground: #fdecee; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #12161b; --panel: #1b2128; --ink: #e6eaee; --soft: #9ba7b3; --line: #323b45;
    --accent: #7cb8f2; --warn: #f2b766; --warn-ground: #33281a; --bad: #ff8d97; --bad-ground: #3a1f23; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 2rem 1.25rem 4rem; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem; }
h3 { font-size: 1rem; margin: 0; overflow-wrap: anywhere; }
p { margin: .25rem 0; } a { color: var(--accent); } .soft { color: var(--soft); } .small { font-size: .85rem; }
.facts { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1.25rem 0 0; padding: 0; list-style: none; }
.facts li { background: var(--panel); border: 1px solid var(--line); border-radius: .5rem; padding: .5rem .9rem; }
.facts b { display: block; font-size: 1.25rem; font-variant-numeric: tabular-nums; }
.facts .bad { background: var(--bad-ground); } .facts .bad b { color: var(--bad); }
.wide { overflow-x: auto; border: 1px solid var(--line); border-radius: .5rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .75rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; background: var(--panel); } tbody tr:last-child > * { border-bottom: 0; }
th:first-child, td:first-child { text-align: left; }
.overview th:first-child { position: sticky; left: 0; max-width: 18rem; overflow: hidden; text-overflow: ellipsis; }
.overview small { display: block; color: var(--soft); }
.swatch { display: inline-block; width: .75em; height: .75em; margin-right: .4em; border-radius: .15em; }
.cut { color: var(--warn); background: var(--warn-ground); border-radius: .25rem; padding: 0 .3em; font-size: .8rem; }
.failed { border: 1px solid var(--line); border-left: .3rem solid var(--bad); border-radius: .5rem;
  background: var(--bad-ground); padding: .6rem 1rem; margin: .6rem 0; overflow-wrap: anywhere; }
article { border: 1px solid var(--line); border-radius: .6rem; margin: 0 0 1.25rem; overflow: hidden; }
article header { padding: .7rem 1rem; background: var(--panel); border-bottom: 1px solid var(--line);
  overflow-wrap: anywhere; }
article img { display: block; width: 100%; height: auto; background: #0b0d10; }
article .wide { border: 0; border-radius: 0; } article footer { padding: .6rem 1rem; border-top: 1px solid var(--line);
  overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.25rem; margin: 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
@media print { body { max-width: none; padding: 0; font-size: 11px; } article, .failed { break-inside: avoid; } }
"""

PAGE = (
    """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>"""
    + _STYLE
    + """</style>
</head>
<body>
<h1>{{ title }}</h1>
<p class="soft">{{ created }}</p>
<p class="soft">A research tool, not a medical device. This page holds pictures of the scans: pass it on as carefully
as them.</p>
<ul class="facts">
<li><b>{{ done | length }}</b> {{ "case" if done | length == 1 else "cases" }} segmented</li>
{% if failed %}<li class="bad"><b>{{ failed | length }}</b> failed</li>{% endif %}
<li><b>{{ labels | length }}</b> {{ "label" if labels | length == 1 else "labels" }}</li>
<li><b>{{ duration }}</b> in all</li>
</ul>

{% if failed %}
<section id="failures">
<h2>Failed</h2>
{% for case in failed %}
<div class="failed"><h3>{{ case.name }}</h3><p>{{ case.error }}</p><p class="small soft">{{ case.file }}</p></div>
{% endfor %}
</section>
{% endif %}

{% if done %}
<section id="overview">
<h2>All cases</h2>
<div class="wide"><table class="overview">
<thead><tr><th scope="col">case</th>
{% for label in columns %}
<th scope="col"><span class="swatch" style="background:{{ label.color }}"></span>{{ label.name }}</th>
{% endfor %}
</tr></thead>
<tbody>
{% for case in done %}
<tr><th scope="row"><a href="#case-{{ loop.index }}">{{ case.name }}</a></th>
{% for label in columns %}
{% set row = case.rows.get(label.name) %}
{% if row %}
<td>{{ row.size }}<small>confidence {{ row.confidence }}</small>
{% if row.faces %}<span class="cut" title="cut off: {{ row.faces }}">border</span>{% endif %}</td>
{% else %}
<td class="soft">–</td>
{% endif %}
{% endfor %}
</tr>
{% endfor %}
</tbody></table></div>
<p class="small soft">Confidence: mean of the model's softmax over the label's voxels, 0 to 1; no probability of being
right. <span class="cut">border</span> The label reaches the edge of the scan: the organ may go on outside, and its
volume be larger.</p>
{% if missing %}<p class="small soft">Found in no case: {{ missing | join(", ") }}.</p>{% endif %}
</section>

<section id="cases">
<h2>Case by case</h2>
{% for case in done %}
<article id="case-{{ loop.index }}">
<header><h3>{{ case.name }}</h3><p class="small soft">{{ case.about }}</p></header>
{% set picture = picture_of(case) %}
{% if picture %}<img src="{{ picture }}" alt="Slices of {{ case.name }} with the labels over them">{% endif %}
{% if case.rows %}
<div class="wide"><table>
<thead><tr><th scope="col">label</th><th scope="col">{{ case.unit }}</th>
{% if case.has_ml %}<th scope="col">ml</th>{% endif %}
<th scope="col">mean ± SD</th><th scope="col">confidence</th><th scope="col">at the border</th></tr></thead>
<tbody>
{% for name, row in case.rows.items() %}
<tr><td><span class="swatch" style="background:{{ row.color }}"></span>{{ name }}</td><td>{{ row.count }}</td>
{% if case.has_ml %}<td>{{ row.ml }}</td>{% endif %}
<td>{{ row.intensity }}</td><td>{{ row.confidence }}</td>
<td>{% if row.faces %}<span class="cut">{{ row.faces }}</span>{% else %}<span class="soft">–</span>{% endif %}</td></tr>
{% endfor %}
</tbody></table></div>
{% else %}
<footer class="soft">Nothing found.</footer>
{% endif %}
<footer class="small soft">
{% for file in case.files %}<a href="{{ file.href }}">{{ file.name }}</a>{{ " · " if not loop.last }}
{% endfor %}
{% if case.removed %}<br>Removed by the clean-up: {{ case.removed }}.{% endif %}
{% if not picture and case.preview %}<br>The picture lies beside this page, in {{ case.preview }}.{% endif %}
</footer>
</article>
{% endfor %}
</section>
{% endif %}

{% for heading, facts in tables.items() %}
<section>
<h2>{{ heading }}</h2>
<dl>{% for key, value in facts.items() %}<dt>{{ key }}</dt><dd>{{ value }}</dd>{% endfor %}</dl>
</section>
{% endfor %}
</body>
</html>
"""
)
"""Filled by [`~samed_hf.prediction.report.write_report`], which escapes the values: any name may stand in it."""
