"use strict";
// Hovering, touching or the arrow keys say what a chart's points are. Without this script the page shows all the same.
for (const plot of document.querySelectorAll(".plot")) {
  const data = JSON.parse(plot.querySelector("script").textContent);
  const all = data.series.flatMap(line => line.points.map(point => ({ line, x: point[0], y: point[1], at: point[2], text: point[3] })));
  const stops = [...new Set(all.map(point => point.x))].sort((a, b) => a - b);
  let shown = [], place = -1;

  const make = (name, tone) => {
    const element = document.createElement("div");
    element.className = tone ? `${name} tone-${tone}` : name;
    plot.append(element);
    shown.push(element);
    return element;
  };
  const clear = () => { shown.forEach(element => element.remove()); shown = []; };

  const show = points => {
    clear();
    if (!points.length) return;
    const x = points[0].x;
    if (data.hover === "x") make("hair").style.left = `${100 * x}%`;
    for (const point of points) {
      const bead = make("bead", point.line.tone);
      bead.style.left = `${100 * point.x}%`;
      bead.style.top = `${100 * point.y}%`;
    }
    const tip = make("tip");
    if (data.hover === "x") {
      const head = document.createElement("b");
      head.textContent = `${data.x} ${points[0].at}`;
      tip.append(head);
    }
    for (const point of points) {
      const row = document.createElement("div"), dot = document.createElement("i");
      dot.className = `tone-${point.line.tone}`;
      row.append(dot);
      if (data.hover === "x") {
        const value = document.createElement("span");
        value.textContent = point.text;
        row.append(point.line.name, value);
      } else row.append(point.text);
      tip.append(row);
    }
    const box = plot.getBoundingClientRect(), width = tip.offsetWidth;
    const left = x * box.width + (x < .5 ? 14 : -14 - width);
    tip.style.left = `${Math.max(-box.left + 6, Math.min(left, innerWidth - box.left - width - 6))}px`;
    const above = data.hover === "x" ? -6 : points[0].y * box.height - 12;
    tip.style.top = `${Math.max(6 - box.top, above - tip.offsetHeight)}px`;
  };

  // At one x: of every line the point nearest to it, unless that line has none around there.
  const around = x => {
    const reach = stops.length > 1 ? Math.max(.02, 1.2 / stops.length) : 1;
    const best = new Map();
    for (const point of all) {
      const before = best.get(point.line);
      if (Math.abs(point.x - x) <= reach && (!before || Math.abs(point.x - x) < Math.abs(before.x - x))) best.set(point.line, point);
    }
    return [...best.values()].sort((a, b) => Math.abs(a.x - x) - Math.abs(b.x - x));
  };
  const nearest = (x, y, box) => {
    const far = point => Math.hypot((point.x - x) * box.width, (point.y - y) * box.height);
    const found = all.reduce((a, b) => (far(b) < far(a) ? b : a));
    return far(found) < 40 ? [found] : [];
  };
  const point = event => {
    const box = plot.getBoundingClientRect(), x = (event.clientX - box.left) / box.width, y = (event.clientY - box.top) / box.height;
    show(data.hover === "x" ? around(x) : nearest(x, y, box));
  };
  plot.addEventListener("pointermove", point);
  plot.addEventListener("pointerdown", point);
  plot.addEventListener("pointerleave", clear);
  plot.addEventListener("blur", () => { clear(); place = -1; });
  plot.addEventListener("keydown", event => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    const length = data.hover === "x" ? stops.length : all.length;
    place = (place + by + length) % length;
    show(data.hover === "x" ? around(stops[place]) : [all[place]]);
  });
}
