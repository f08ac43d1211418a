// Draws the charts and the map from the data in the page, and shows instants in the viewer's zone (UTC in the tooltip).
"use strict";
(() => {
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const muted = () => getComputedStyle(document.documentElement).getPropertyValue("--pico-muted-color").trim();
  const line = () => getComputedStyle(document.documentElement).getPropertyValue("--pico-muted-border-color").trim();

  function drawChart(place) {
    const data = JSON.parse(place.dataset.chart);
    const axis = { stroke: muted(), grid: { stroke: line(), width: 1 }, ticks: { stroke: line() } };
    const series = data.series.map((one) => ({
      label: one.label, stroke: colour(one.colour), width: 2, spanGaps: false, points: { show: false },
      value: (_, value) => (value === null ? "-" : `${value.toLocaleString(undefined, { maximumFractionDigits: 2 })}${data.unit}`),
    }));
    place.replaceChildren();
    new uPlot(
      { width: place.clientWidth, height: 180, series: [{}, ...series], axes: [axis, { ...axis, size: 60 }],
        scales: { y: { range: (_, low, high) => [0, Math.max(high || 0, 1)] } }, cursor: { drag: { x: false, y: false } } },
      [data.x, ...data.series.map((one) => one.y)], place);
  }

  const SVG = "http://www.w3.org/2000/svg";
  function make(kind, attributes, parent) {
    const made = document.createElementNS(SVG, kind);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    parent.append(made);
    return made;
  }

  function drawMap(place) {
    const { nodes, edges } = JSON.parse(place.dataset.map);
    const graph = new dagre.graphlib.Graph();
    graph.setGraph({ rankdir: "LR", nodesep: 14, ranksep: 90, marginx: 8, marginy: 8 });
    graph.setDefaultEdgeLabel(() => ({}));
    for (const [name, node] of Object.entries(nodes)) graph.setNode(name, { width: 24 + 7.4 * node.label.length, height: 30 });
    for (const edge of edges) graph.setEdge(edge.from, edge.to);
    dagre.layout(graph);
    const { width, height } = graph.graph();
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("width", width);
    svg.setAttribute("height", height);
    const most = Math.max(1, ...edges.map((edge) => edge.events));
    for (const edge of edges) {
      const points = graph.edge(edge.from, edge.to).points;
      const path = points.map((point, index) => `${index ? "L" : "M"}${point.x.toFixed(1)},${point.y.toFixed(1)}`).join(" ");
      const kind = edge.events === 0 ? "quiet" : edge.lag > 60 ? "bad" : edge.lag > 5 ? "some" : "good";
      const drawn = make("path", { class: `edge ${kind}`, d: path, "stroke-width": (1 + 5 * Math.sqrt(edge.events / most)).toFixed(1) }, svg);
      make("title", {}, drawn).textContent = `${edge.events.toLocaleString()} of the last 10,000 events`;
    }
    for (const [name, node] of Object.entries(nodes)) {
      const at = graph.node(name);
      const parent = node.href ? make("a", { href: `${place.dataset.root}/${encodeURI(node.href)}` }, svg) : svg;
      const group = make("g", { class: `node ${node.kind}`, transform: `translate(${at.x - at.width / 2},${at.y - 15})` }, parent);
      make("rect", { width: at.width, height: 30, rx: 5 }, group);
      make("text", { x: at.width / 2, y: 20, "text-anchor": "middle" }, group).textContent = node.label;
    }
    place.replaceChildren(svg);
  }

  function showTime(place) {
    const instant = new Date(place.dateTime);
    const today = instant.toDateString() === new Date().toDateString();
    const date = today ? {} : { year: "numeric", month: "2-digit", day: "2-digit" };
    const time = { hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3, hourCycle: "h23" };
    place.textContent = instant.toLocaleString(undefined, { ...date, ...time });
  }

  function draw() {
    document.querySelectorAll("[data-chart]:not([data-drawn])").forEach((place) => { place.dataset.drawn = ""; drawChart(place); });
    document.querySelectorAll("[data-map]:not([data-drawn])").forEach((place) => { place.dataset.drawn = ""; drawMap(place); });
    document.querySelectorAll("time[datetime]:not([data-drawn])").forEach((place) => { place.dataset.drawn = ""; showTime(place); });
  }
  document.addEventListener("htmx:after:swap", draw);
  document.addEventListener("htmx:afterSwap", draw);
  document.addEventListener("DOMContentLoaded", draw);
  draw();
})();
