#include "core/report/sections.h"

namespace qat::report {

const char* const kStyle = R"css(
:root{color-scheme:light dark;--ground:#f6f7f9;--card:#fff;--ink:#1b2130;--muted:#667085;--line:#e3e7ee;--grid:#eceff4;
--good:#15803d;--bad:#c2334d;--on:#fff;--c0:#2f6fde;--c1:#e0761a;--c2:#1f9d72;--c3:#8456e0;--c4:#d0456b;--c5:#0d93a5;
--c6:#9a7b0a;--c7:#64748b;--shadow:0 1px 2px #1018280f}
@media (prefers-color-scheme:dark){:root{--ground:#0f1217;--card:#171b22;--ink:#e7eaf0;--muted:#98a3b5;--line:#2a313d;
--grid:#232934;--good:#4ade80;--bad:#fb7185;--on:#0f1217;--c0:#6ea8ff;--c1:#ffa250;--c2:#4fd1a0;--c3:#b49bff;
--c4:#ff86a8;--c5:#4fd0e0;--c6:#e0c04a;--c7:#a3b0c2;--shadow:none}}
*{box-sizing:border-box}
html{scroll-behavior:smooth;scroll-padding-top:60px;-webkit-text-size-adjust:100%}
body{margin:0;background:var(--ground);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
header{position:sticky;top:0;z-index:2;display:flex;gap:20px;align-items:center;padding:0 max(16px,calc(50vw - 640px));
height:48px;background:var(--card);border-bottom:1px solid var(--line)}
header b{white-space:nowrap}
nav{display:flex;gap:4px;overflow-x:auto;scrollbar-width:none}
nav a{color:var(--muted);text-decoration:none;padding:4px 9px;border-radius:6px;white-space:nowrap}
nav a:hover{color:var(--ink);background:var(--grid)}
main{max-width:1312px;margin:0 auto;padding:8px 16px 64px}
section{margin-top:28px}
h2{font-size:22px;margin:0 0 12px;letter-spacing:-.01em}
h3{font-size:16px;margin:22px 0 10px}
h4{font-size:14px;font-weight:500;color:var(--muted);margin:18px 0 8px}
.muted{color:var(--muted)}
.runs{display:grid;gap:16px;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr));margin-bottom:16px}
.run,.card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:14px 16px;box-shadow:var(--shadow);
margin:0 0 16px;min-width:0}
.run{margin:0}
.run h3{margin:0 0 10px;overflow-wrap:anywhere}
.run h3 i,.legend i{display:inline-block;width:10px;height:10px;border-radius:3px;background:var(--c);margin-right:7px}
.tiles{display:grid;gap:10px;grid-template-columns:repeat(auto-fit,minmax(128px,1fr));margin-bottom:12px}
.tile{background:var(--ground);border-radius:8px;padding:9px 12px}
.tile strong{display:block;font-size:21px;letter-spacing:-.02em;font-variant-numeric:tabular-nums}
.tile span{color:var(--muted);font-size:12.5px;line-height:1.3;display:block}
.tile.good strong{color:var(--good)}.tile.bad strong{color:var(--bad)}
dl{margin:0;font-size:13.5px}
dl div{display:flex;gap:12px;padding:3px 0;border-top:1px solid var(--grid)}
dt{color:var(--muted);flex:0 0 108px}
dd{margin:0;overflow-wrap:anywhere;min-width:0}
.note{color:var(--muted);font-size:13.5px;margin:10px 0 0}
figcaption,summary{font-weight:600;font-size:14px;margin-bottom:8px}
figcaption span{float:right;font-weight:400;font-size:12.5px;color:var(--muted)}
summary{cursor:pointer;margin:0}
details[open] summary{margin-bottom:10px}
.charts,.small{display:grid;gap:16px;margin-bottom:16px;align-items:start}
.charts{grid-template-columns:repeat(auto-fill,minmax(min(100%,390px),1fr))}
.charts.wide{grid-template-columns:repeat(auto-fit,minmax(min(100%,390px),1fr))}
.small{grid-template-columns:repeat(auto-fill,minmax(min(100%,250px),1fr));gap:12px}
.charts .card,.small .card{margin:0}
.small .card{padding:10px 12px}
.chart{display:block;width:100%;height:auto;overflow:visible}
.tall{max-height:560px;overflow:auto}
.legend{display:flex;flex-wrap:wrap;gap:4px 16px;margin:8px 0 0;font-size:13px;color:var(--muted)}
.c0{--c:var(--c0)}.c1{--c:var(--c1)}.c2{--c:var(--c2)}.c3{--c:var(--c3)}.c4{--c:var(--c4)}.c5{--c:var(--c5)}
.c6{--c:var(--c6)}.c7{--c:var(--c7)}
svg text{font-size:11.5px;fill:var(--muted);font-variant-numeric:tabular-nums}
svg .name{fill:var(--ink)}
.mid,.count{text-anchor:middle}.end{text-anchor:end}
.grid,.guide{stroke:var(--grid);stroke-width:1}.guide{stroke-dasharray:1 4;stroke:var(--line)}
.axis{stroke:var(--line)}
.line{fill:none;stroke:var(--c);stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
.line.dashed{stroke-dasharray:5 4;opacity:.75}
.line.faint{stroke-width:1.2;opacity:.55}
.dot{fill:var(--c);stroke:var(--card);stroke-width:1}
.dot:hover{stroke:var(--ink)}
.span{fill:var(--c);opacity:.32}
.values{stroke:var(--ink);stroke-width:1.3}
.area{fill:var(--c);opacity:.75}
.level{stroke:var(--ink);opacity:.28;stroke-width:1;fill:none}
.level.dense{opacity:.5;stroke-width:.5}
.ground{fill:var(--ground)}
.cell.right{fill:var(--c0)}.cell.wrong{fill:var(--bad)}
.count{font-size:11px;fill:var(--ink)}svg .count.on{fill:var(--on)}
.scroll{overflow-x:auto}
.scroll.tall{max-height:620px;overflow:auto}
table{border-collapse:collapse;width:100%;font-size:13.5px;font-variant-numeric:tabular-nums}
th{text-align:left;font-weight:500;color:var(--muted);white-space:nowrap;position:sticky;top:0;background:var(--card)}
th,td{padding:5px 14px 5px 0;border-bottom:1px solid var(--grid);vertical-align:middle}
td{white-space:nowrap}
td:first-child,th:first-child{position:sticky;left:0;background:var(--card);z-index:1}
tr:last-child td{border-bottom:0}
.n{text-align:right}
.sortable th{cursor:pointer}.sortable th:hover{color:var(--ink)}
.sortable th[data-d="1"]:after{content:" \25B2"}.sortable th[data-d="-1"]:after{content:" \25BC"}
.bar{display:inline-block;vertical-align:middle;width:72px;height:7px;border-radius:4px;background:var(--grid);
margin-right:8px;overflow:hidden}
.bar i{display:block;height:100%;background:var(--c,var(--c0));border-radius:4px}
.gallery{display:grid;gap:12px;grid-template-columns:repeat(auto-fill,minmax(112px,1fr))}
.shot{font-size:12px;min-width:0}
.shot img{display:block;width:100%;aspect-ratio:1;object-fit:contain;background:#0004;border-radius:7px;
image-rendering:pixelated;border-bottom:3px solid var(--good)}
.shot.wrong img{border-color:var(--bad)}
.shot b{display:block;margin:3px 0 2px;white-space:nowrap;overflow:hidden;text-overflow:ellipsis}
.guess{position:relative;display:flex;justify-content:space-between;gap:4px;padding:0 5px;margin-top:2px;border-radius:3px;
background:var(--ground);overflow:hidden;line-height:1.55}
.guess i{position:absolute;left:0;top:0;bottom:0;background:var(--bad);opacity:.22}
.guess.right i{background:var(--good);opacity:.3}
.guess em{position:relative;font-style:normal;white-space:nowrap;overflow:hidden;text-overflow:ellipsis;min-width:0}
.guess small{position:relative;font-size:11px;color:var(--muted);white-space:nowrap}
pre{margin:0;overflow-x:auto;font:12.5px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
pre b{font-weight:500;color:var(--c0)}
code{font:12.5px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
#tip{position:fixed;z-index:9;pointer-events:none;background:var(--ink);color:var(--card);font-size:12.5px;padding:4px 8px;
border-radius:6px;max-width:280px}
@media (max-width:600px){body{font-size:14px}main{padding:4px 10px 48px}.card,.run{padding:12px}header{gap:10px;padding:0 10px}
.small{grid-template-columns:repeat(2,minmax(0,1fr));gap:8px}.small .card{padding:8px}.small figcaption{font-size:12px}
.small figcaption span{float:none;display:block;font-size:11px}figcaption span{float:none;display:block}
.small svg text{font-size:17px}dt{flex-basis:84px}
td:first-child,th:first-child{max-width:132px;overflow:hidden;text-overflow:ellipsis}
.gallery{grid-template-columns:repeat(3,minmax(0,1fr));gap:9px}}
@media print{header{position:static}nav{display:none}.tall,.scroll.tall{max-height:none}}
)css";

// No "<" and no "&": the page is XML too.
const char* const kScript = R"js(
(function(){
const tip=document.getElementById("tip");
function nearest(svg,e){
  let best=null,least=22;
  svg.querySelectorAll("circle[data-t]").forEach(function(c){
    const b=c.getBoundingClientRect(),d=Math.hypot(b.x+b.width/2-e.clientX,b.y+b.height/2-e.clientY);
    if(least>d){least=d;best=c;}
  });
  return best;
}
function show(e){
  if(!e.target.closest)return tip.hidden=true;
  const svg=e.target.closest("svg.lines,svg.rows");
  const at=e.target.closest("[data-t]")||(svg?nearest(svg,e):null);
  tip.hidden=!at;
  if(!at)return;
  tip.textContent=at.dataset.t;
  const w=tip.offsetWidth,h=tip.offsetHeight;
  tip.style.left=Math.max(4,Math.min(e.clientX+12,innerWidth-w-4))+"px";
  tip.style.top=(e.clientY-h-12>4?e.clientY-h-12:e.clientY+16)+"px";
}
document.addEventListener("pointermove",show);
document.addEventListener("pointerdown",show);
document.addEventListener("scroll",function(){tip.hidden=true;},true);
document.querySelectorAll("table.sortable th").forEach(function(th){
  th.addEventListener("click",function(){
    const row=th.parentNode,column=Array.prototype.indexOf.call(row.children,th),body=row.parentNode.nextElementSibling;
    const down=th.dataset.d==="1"?-1:1;
    row.querySelectorAll("th").forEach(function(other){delete other.dataset.d;});
    th.dataset.d=down;
    function value(tr){
      const td=tr.children[column],inner=td.querySelector("data");
      const text=td.dataset.v||(inner?inner.value:td.textContent.replace(/\u00a0/g,""));
      const n=parseFloat(text);
      return isNaN(n)?text:n;
    }
    Array.from(body.children).sort(function(a,b){
      const x=value(a),y=value(b);
      if(typeof x!==typeof y)return typeof x==="number"?-1:1;
      return (x>y?1:y>x?-1:0)*down;
    }).forEach(function(tr){body.appendChild(tr);});
  });
});
})();
)js";

}  // namespace qat::report
