"""The style sheet of the page: light and dark, narrow and wide, on screen and on paper. It refers to no other file."""

from __future__ import annotations

__all__ = ["STYLE"]

STYLE = """
:root{color-scheme:light dark;--bg:#fff;--box:#f6f8fa;--line:#d0d7de;--text:#1f2328;--dim:#57606a;--good:#1a7f37;
--bad:#cf222e;--mild:#9a6700;--blue:#0969da;--violet:#8250df;--teal:#0a7ea4;--outage:#cf222e22;--pause:#0969da22;
--gap:#8c959f33}
@media (prefers-color-scheme:dark){:root{--bg:#0d1117;--box:#161b22;--line:#30363d;--text:#e6edf3;--dim:#9da7b3;
--good:#3fb950;--bad:#ff7b72;--mild:#d29922;--blue:#58a6ff;--violet:#bc8cff;--teal:#39c5cf;--outage:#ff7b7233;
--pause:#58a6ff33;--gap:#8c959f33}}
@media print{:root{color-scheme:light;--bg:#fff;--box:#fff;--line:#bbb;--text:#000;--dim:#333;--good:#1a7f37;
--bad:#b01020;--mild:#7a5000;--blue:#0550ae;--violet:#6639ba;--teal:#0a5e7a;--outage:#cf222e22;--pause:#0550ae22;
--gap:#8c959f33}*{print-color-adjust:exact;-webkit-print-color-adjust:exact}figure,tr{break-inside:avoid}
h2,h3{break-after:avoid}.h{display:none}.scroll{overflow:visible!important}td:not(.n){white-space:normal!important}
td .long,td ul{min-width:0!important}table{font-size:.75rem!important}th{white-space:normal!important}
main{max-width:none!important}.charted #plain{display:block!important}#charts,#live,nav{display:none!important}}
*{box-sizing:border-box}[hidden]{display:none!important}
body{margin:0;background:var(--bg);color:var(--text);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1400px;margin:0 auto;padding:20px}
h1{font-size:1.45rem;line-height:1.3;margin:.3em 0 .5em;font-weight:650;overflow-wrap:anywhere}
h2{font-size:1.1rem;margin:2em 0 .6em}h3{font-size:1rem;margin:1.2em 0 .3em;overflow-wrap:anywhere}
p{margin:.4em 0;overflow-wrap:anywhere}
code,td,bdi{unicode-bidi:isolate}
code{font:.92em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}
.dim,.unit{color:var(--dim);font-size:.88rem}
.state{display:inline-block;padding:0 .7em;border:1px solid currentColor;border-radius:1em;font-size:.85rem;
font-weight:600}
.state.good{color:var(--good)}.state.bad{color:var(--bad)}.state.mild{color:var(--mild)}.state.plain{color:var(--blue)}
.next{border-left:4px solid var(--blue);background:var(--box);padding:.6em .9em;margin:1em 0}
.note{border-left:4px solid var(--mild);background:var(--box);padding:.6em .9em;margin:1em 0}
dl.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(135px,1fr));gap:10px;margin:1em 0}
dl.tiles div{background:var(--box);border:1px solid var(--line);border-radius:6px;padding:.5em .7em}
dl.tiles dt{color:var(--dim);font-size:.82rem}
dl.tiles dd{margin:0;font-size:1.12rem;font-weight:600;overflow-wrap:anywhere}
figure{margin:0 0 14px}figcaption{font-size:.88rem;margin-bottom:3px}
.keys{float:right;color:var(--dim)}.key{margin-left:1em;white-space:nowrap}
.key i{display:inline-block;width:14px;height:0;border-top:3px solid var(--c);margin-right:5px;vertical-align:middle}
.key.limit i,.key.p95 i{border-top-style:dashed}
.key.closed i,.key.open i{height:9px;border:0;background:var(--c)}
.plot{position:relative;height:88px;background:var(--box);border:1px solid var(--line);border-radius:4px;clear:both}
.plot.band{height:22px}
.plot svg{position:absolute;inset:0;width:100%;height:100%;display:block}
.plot .top,.plot .zero{position:absolute;z-index:1;left:5px;font-size:.72rem;color:var(--dim);pointer-events:none;
background:var(--box);padding:0 2px;border-radius:3px}
.plot .top{top:1px}.plot .zero{bottom:1px}
svg.times{display:block;width:100%;height:1.3em;font-size:.75rem;overflow:visible}.times text{fill:var(--dim)}
.times .mid{text-anchor:middle}.times .end{text-anchor:end}
.charted #plain{display:none}
.controls{display:flex;flex-wrap:wrap;gap:6px;margin:.6em 0}
button{font:inherit;font-size:.85rem;color:var(--text);background:var(--box);border:1px solid var(--line);
border-radius:6px;padding:.2em .8em;cursor:pointer;min-height:30px}
.cursor{display:flex;flex-wrap:wrap;align-items:center;gap:10px;margin:.4em 0 .8em;font-size:.88rem}
#cursor{flex:1 1 240px;accent-color:var(--blue);min-width:0;margin:0}
#readout{flex:0 1 auto;min-width:9ch;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
.live-plot{background:var(--box);border:1px solid var(--line);border-radius:4px;clear:both;overflow:hidden}
.value{display:inline-block;min-width:5ch;margin-left:.4em;text-align:left;color:var(--text);font-variant-numeric:tabular-nums}
.u-select{background:var(--gap)}
.u-hz .u-cursor-x{border-right-color:var(--dim)}
.ok{--c:var(--good)}.failed{--c:var(--bad)}.throttled{--c:var(--mild)}.flight{--c:var(--blue)}.limit{--c:var(--dim)}
.parked{--c:var(--violet)}.p50{--c:var(--teal)}.p95{--c:var(--violet)}.cost{--c:var(--teal)}.in{--c:var(--blue)}
.out{--c:var(--violet)}.closed{--c:var(--good)}.open{--c:var(--bad)}
path.area{fill:var(--c);fill-opacity:.55;stroke:var(--c);stroke-width:1;vector-effect:non-scaling-stroke}
path.line{fill:none;stroke:var(--c);stroke-width:1.7;vector-effect:non-scaling-stroke}
path.limit,path.p95{stroke-dasharray:5 3}
rect.bar,rect.closed,rect.open{fill:var(--c)}rect.closed{fill-opacity:.6}
rect.outage{fill:var(--outage)}rect.pause{fill:var(--pause)}rect.gap{fill:var(--gap)}
rect.h{fill:transparent}rect.h:hover{fill:var(--text);fill-opacity:.12}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(320px,100%),1fr));gap:10px 22px}
.scroll{overflow-x:auto;border:1px solid var(--line);border-radius:6px;margin:.5em 0}
table{border-collapse:collapse;width:100%;font-size:.88rem}
th,td{padding:.35em .7em;text-align:left;vertical-align:top;border-bottom:1px solid var(--line)}
tbody tr:last-child td{border-bottom:0}
th{background:var(--box);white-space:nowrap;font-weight:600}td{white-space:nowrap}
.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
svg.share{display:block;width:100%;height:4px;margin-top:3px}.share rect{fill:var(--teal)}
td .long,td .name{display:inline-block;white-space:normal;overflow-wrap:anywhere;min-width:8em;max-width:22em}
td .long{min-width:15em;max-width:70em}td ul{margin:.3em 0;padding-left:1.2em;white-space:normal;min-width:15em}
details{margin:.5em 0}summary{cursor:pointer;color:var(--blue);font-size:.9rem;padding:.2em 0}
summary:focus-visible,.scroll:focus-visible,button:focus-visible,input:focus-visible,a:focus-visible
{outline:3px solid var(--blue);outline-offset:2px}
a{color:var(--blue)}nav{margin:.4em 0}
footer{color:var(--dim);font-size:.82rem;margin:3em 0 1em}
@media (max-width:600px){main{padding:12px}h1{font-size:1.2rem}.times .odd{display:none}.keys{float:none;display:block}
.key{margin:0 1em 0 0}dl.tiles{grid-template-columns:1fr 1fr}}
"""
