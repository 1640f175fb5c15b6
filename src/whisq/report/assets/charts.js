"use strict";
// Draws the report's figures as SVG: points with intervals, lines and bars; linear, logarithmic and named axes.
const drawChart = (() => {
  const SPACE = "http://www.w3.org/2000/svg";
  const FONT = 13, ROW = 34, PLOT = 300, CAP = 4, GAP = 6;
  const make = (name, attributes = {}, style = {}, ...children) => {
    const made = document.createElementNS(SPACE, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    Object.assign(made.style, style);
    made.append(...children);
    return made;
  };
  const ruler = document.createElement("canvas").getContext("2d");
  const widthOf = (text, size = FONT) => {
    ruler.font = `${size}px system-ui, "DejaVu Sans", sans-serif`;
    return ruler.measureText(text).width * 1.04;
  };
  // Names of others come with the escapes that figures have; here text is never HTML.
  const plain = (text) => String(text).replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&#37;", "%")
    .replaceAll("&#40;", "(").replaceAll("&amp;", "&");
  const write = (parent, text, x, y, { anchor = "start", colour = "var(--ink)", size = FONT, kind = "" } = {}) => {
    const made = make("text", { x, y, "text-anchor": anchor, class: kind }, { fill: colour, fontSize: `${size}px` });
    made.textContent = text;
    parent.append(made);
    return made;
  };
  const wrapped = (text, width) => {
    const lines = [""];
    for (const word of text.split(" ")) {
      const longer = `${lines.at(-1)} ${word}`.trim();
      if (widthOf(longer) <= width || !lines.at(-1)) lines[lines.length - 1] = longer;
      else lines.push(word);
    }
    return lines;
  };

  const ring = (count, outer, inner = outer, turn = -Math.PI / 2) => Array.from({ length: count }, (_, index) => {
    const angle = turn + (2 * Math.PI * index) / count, radius = index % 2 ? inner : outer;
    return [radius * Math.cos(angle), radius * Math.sin(angle)];
  });
  const plus = [[-3, -9], [3, -9], [3, -3], [9, -3], [9, 3], [3, 3], [3, 9], [-3, 9], [-3, 3], [-9, 3], [-9, -3], [-3, -3]]
    .map(([x, y]) => [x / 9, y / 9]);
  const SHAPES = {
    "square": [[-0.85, -0.85], [0.85, -0.85], [0.85, 0.85], [-0.85, 0.85]], "diamond": ring(4, 1.15),
    "triangle-up": ring(3, 1.15), "triangle-down": ring(3, 1.15, 1.15, Math.PI / 2),
    "triangle-right": ring(3, 1.15, 1.15, 0), "triangle-left": ring(3, 1.15, 1.15, Math.PI),
    "star": ring(10, 1.25, 0.55), "hexagon": ring(6, 1.05), "cross": plus,
    "x": plus.map(([x, y]) => [(x - y) * 0.75, (x + y) * 0.75]), "bowtie": [[-1, -0.9], [1, 0.9], [1, -0.9], [-1, 0.9]],
  };
  const mark = (symbol, x, y, size, colour) => {
    const open = symbol.endsWith("-open"), radius = size / 2, corners = SHAPES[symbol.replace("-open", "")];
    const style = { fill: open ? "var(--paper)" : colour, stroke: colour, strokeWidth: open ? 2 : 1 };
    if (!corners) return make("circle", { cx: x, cy: y, r: radius, class: "mark" }, style);
    const path = corners.map(([dx, dy]) => `${(x + radius * dx).toFixed(1)},${(y + radius * dy).toFixed(1)}`).join("L");
    return make("path", { d: `M${path}Z`, class: "mark" }, style);
  };

  const told = (value) => (Math.abs(value) < 1e-4 && value ? value.toExponential(0) : String(Number(value.toPrecision(6))))
    .replace("-", "−");
  const linearTicks = (low, high, most) => {
    const rough = (high - low) / Math.max(1, most), power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((times) => times * power).find((one) => one >= rough * 0.999);
    const ticks = [];
    for (let tick = Math.ceil(low / step - 1e-9) * step; tick <= high + step * 1e-9; tick += step) ticks.push(tick);
    return ticks;
  };
  const logTicks = (low, high) => {
    const decades = Math.log10(high / low), parts = decades > 2.2 ? [1] : decades > 1.2 ? [1, 3] : [1, 2, 5];
    const ticks = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) {
      for (const part of parts) {
        const tick = part * 10 ** power;
        if (tick >= low * 0.999 && tick <= high * 1.001) ticks.push(Number(tick.toPrecision(3)));
      }
    }
    return ticks;
  };

  const axisOf = (trace, name) => trace[`${name}axis`] ?? name;
  const error = (trace, name, index, side) => trace[`error_${name}`]?.[side]?.[index] ?? 0;
  const spanOf = (traces, name, axis, more) => {
    const values = [...more];
    for (const trace of traces) {
      trace[name].forEach((value, index) => {
        if (typeof value !== "number") return;
        values.push(value + error(trace, name, index, "array"), value - error(trace, name, index, "arrayminus"));
      });
    }
    const usable = axis.type === "log" ? values.filter((value) => value > 0) : values;
    let low = Math.min(...usable), high = Math.max(...usable);
    if (axis.rangemode === "tozero") low = Math.min(0, low);
    if (axis.type === "log") {
      const room = Math.max(1.25, (high / low) ** 0.06);
      return [low / room, high * room];
    }
    const room = (high - low || Math.abs(high) || 1) * 0.06;
    return [axis.rangemode === "tozero" && low === 0 ? 0 : low - room, high + room];
  };
  const scaleOf = (axis, [low, high], from, to) => {
    if (axis.type !== "log") return (value) => from + ((value - low) / (high - low)) * (to - from);
    const place = (value) => Math.log10(Math.max(value, low));
    return (value) => from + ((place(value) - place(low)) / (place(high) - place(low))) * (to - from);
  };

  const hoverLines = (trace, index) => {
    const of = (list) => (Array.isArray(list) ? list[index] : list) ?? "";
    const digits = (value) => (typeof value === "number" ? told(Number(value.toPrecision(3))) : value);
    return String(of(trace.hovertemplate)).replace("<extra></extra>", "").replaceAll("%{hovertext}", of(trace.hovertext))
      .replaceAll("%{y}", digits(trace.y[index])).replaceAll("%{text}", of(trace.text)).replaceAll("%{x:.3g}", digits(trace.x[index]))
      .replaceAll("<b>", "").replaceAll("</b>", "").split("<br>").map(plain);
  };

  // The first of a point's sides on which its name stands on nothing else.
  const place = (taken, width, x, y, frame) => {
    const half = FONT / 2, sides = [[13, 4], [-13 - width, 4], [-width / 2, -15], [-width / 2, 25], [11, -10], [11, 20],
      [-11 - width, -10], [-11 - width, 20]];
    for (const [dx, dy] of sides) {
      const box = { left: x + dx - 2, right: x + dx + width + 2, top: y + dy - FONT, bottom: y + dy + half - 2 };
      const inside = box.left >= frame.left && box.right <= frame.right && box.top >= frame.top && box.bottom <= frame.bottom;
      const free = taken.every((o) => box.right < o.left || box.left > o.right || box.bottom < o.top || box.top > o.bottom);
      if (inside && free) { taken.push(box); return [x + dx, y + dy]; }
    }
    return null;
  };

  const legend = (parent, traces, width, top) => {
    let x = 0, y = top + 14;
    for (const trace of traces) {
      const text = plain(trace.name), needed = 22 + widthOf(text);
      if (x && x + needed > width) { x = 0; y += 20; }
      const symbol = [trace.marker.symbol].flat()[0] ?? "circle", colour = [trace.marker.color].flat()[0];
      if (trace.mode?.includes("lines")) parent.append(make("line", { x1: x, x2: x + 16, y1: y - 4, y2: y - 4 }, { stroke: colour, strokeWidth: 2 }));
      parent.append(mark(symbol, x + 8, y - 4, 10, colour));
      write(parent, text, x + 20, y, { kind: "entry" });
      x += needed + 14;
    }
    return y + 10;
  };

  const panel = (chart, traces, xaxis, yaxis, { width, top, shapes, hover }) => {
    const named = traces.flatMap((trace) => trace.y).some((value) => typeof value === "string");
    const names = named ? [...new Set(traces.flatMap((trace) => trace.y))] : [];
    const above = named && Math.max(...names.map((name) => widthOf(plain(name)))) > width * 0.34;
    const row = above ? ROW + 14 : ROW, height = named ? names.length * row : PLOT;
    const ySpan = named ? null : spanOf(traces, "y", yaxis, []);
    const yTicks = named ? [] : yaxis.type === "log" ? logTicks(...ySpan) : linearTicks(...ySpan, 6);
    const left = named ? (above ? 2 : Math.max(...names.map((name) => widthOf(plain(name)))) + 10)
      : Math.max(...yTicks.map((tick) => widthOf(told(tick)))) + 10;
    const right = width - 12;
    let y0 = top + 6;
    if (!named && yaxis.title) for (const line of wrapped(yaxis.title.text, width)) { write(chart, line, 0, y0 + 10, { colour: "var(--muted)" }); y0 += 18; }
    const bottom = y0 + height, more = shapes.flatMap((shape) => [shape.x0, shape.x1]);
    const xSpan = spanOf(traces, "x", xaxis, more), toX = scaleOf(xaxis, xSpan, left, right);
    const toY = named ? (name) => y0 + (names.length - 1 - names.indexOf(name) + 0.5) * row + (above ? 9 : 0) : scaleOf(yaxis, ySpan, bottom, y0);
    const most = Math.max(2, Math.floor((right - left) / 70));
    let xTicks = xaxis.type === "log" ? logTicks(...xSpan) : linearTicks(...xSpan, most);
    while (xTicks.length > most + 1) xTicks = xTicks.filter((_, index) => index % 2 === 0);
    let last = -Infinity;
    for (const tick of xTicks) {
      const x = toX(tick), half = widthOf(told(tick)) / 2;
      chart.append(make("line", { x1: x, x2: x, y1: y0, y2: bottom }, { stroke: "var(--line)" }));
      const centre = Math.min(x, width - half);
      if (centre - half > last + GAP) { write(chart, told(tick), centre, bottom + 17, { anchor: "middle", kind: "tick" }); last = centre + half; }
    }
    for (const tick of yTicks) {
      const y = toY(tick);
      chart.append(make("line", { x1: left, x2: right, y1: y, y2: y }, { stroke: "var(--line)" }));
      write(chart, told(tick), left - 8, y + 4, { anchor: "end", kind: "tick" });
    }
    chart.append(make("line", { x1: left, x2: right, y1: bottom, y2: bottom }, { stroke: "var(--muted)" }));
    for (const name of names) {
      const y = toY(name);
      if (above) write(chart, plain(name), 2, y - 14);
      else write(chart, plain(name), left - 8, y + 4, { anchor: "end" });
    }
    for (const shape of shapes) chart.append(make("line", { x1: toX(shape.x0), x2: toX(shape.x1), y1: y0, y2: bottom }, { stroke: "var(--ink)" }));
    let end = bottom + 22;
    for (const line of wrapped(xaxis.title?.text ?? "", width)) { if (line) { end += 15; write(chart, line, width / 2, end, { anchor: "middle", colour: "var(--muted)" }); } }

    const labelled = [], taken = [];
    for (const trace of traces) {
      const colours = [trace.marker.color].flat(), symbols = [trace.marker.symbol ?? "circle"].flat();
      const points = trace.x.map((value, index) => [value === null ? null : toX(value), toY(trace.y[index])]);
      if (trace.mode?.includes("lines")) {
        chart.append(make("path", { d: `M${points.map((point) => point.join(",")).join("L")}` }, { fill: "none", stroke: trace.line.color, strokeWidth: 2 }));
      }
      if (trace.mode?.includes("lines")) {
        for (let index = 1; index < points.length; index += 1) {
          const [[x1, y1], [x2, y2]] = points.slice(index - 1, index + 1), steps = Math.ceil(Math.hypot(x2 - x1, y2 - y1) / 6);
          for (let step = 0; step <= steps; step += 1) {
            const x = x1 + ((x2 - x1) * step) / steps, y = y1 + ((y2 - y1) * step) / steps;
            taken.push({ left: x - 2, right: x + 2, top: y - 2, bottom: y + 2 });
          }
        }
      }
      points.forEach(([x, y], index) => {
        if (x === null) return;
        const colour = colours[index % colours.length], group = make("g", { class: "point" });
        if (trace.type === "bar") {
          const from = toX(Math.max(0, xSpan[0])), text = plain([trace.text].flat()[index] ?? "");
          group.append(make("rect", { x: Math.min(from, x), y: y - 9, width: Math.abs(x - from), height: 18, class: "mark" }, { fill: colour }));
          const wide = widthOf(text) + 14, past = x + error(trace, "x", index, "array") * ((toX(xSpan[1]) - left) / (xSpan[1] - xSpan[0]));
          if (past + wide < right) write(group, text, past + 6, y + 4);
          else write(group, text, x - 6, y + 4, { anchor: "end", colour: "var(--paper)" });
        }
        for (const [name, across] of [["x", false], ["y", true]]) {
          if (!trace[`error_${name}`]) continue;
          const scale = name === "x" ? toX : toY, value = name === "x" ? trace.x[index] : trace.y[index];
          const [a, b] = ["arrayminus", "array"].map((side, sign) => scale(value + (sign ? 1 : -1) * error(trace, name, index, side)));
          const stroke = { stroke: trace[`error_${name}`].color ?? colour, strokeWidth: 1.5 };
          const line = (p, q, r, s) => group.append(make("line", across ? { x1: q, y1: p, x2: s, y2: r } : { x1: p, y1: q, x2: r, y2: s }, stroke));
          const at = across ? x : y;
          line(a, at, b, at);
          for (const end of [a, b]) line(end, at - CAP, end, at + CAP);
          if (across) taken.push({ left: x - CAP, right: x + CAP, top: Math.min(a, b), bottom: Math.max(a, b) });
        }
        if (trace.type !== "bar") {
          if ([trace.made].flat()[index]) group.append(make("circle", { cx: x, cy: y, r: 12, class: "made" }, { fill: "none", stroke: "var(--ink)", strokeWidth: 2 }));
          group.append(mark(symbols[index % symbols.length], x, y, [trace.marker.size].flat()[0], colour));
          taken.push({ left: x - 8, right: x + 8, top: y - 8, bottom: y + 8 });
          if (trace.labels?.[index]) labelled.push([plain(trace.labels[index]), x, y, Boolean([trace.made].flat()[index])]);
        }
        const lines = hoverLines(trace, index);
        group.append(make("title", {}, {}, lines.join("\n")));
        hover(group, lines);
        chart.append(group);
      });
    }
    // What was made has its name in any case; the others where there is room.
    labelled.sort((one, other) => Number(other[3]) - Number(one[3]));
    for (const [text, x, y] of labelled) {
      const found = place(taken, widthOf(text, 12), x, y, { left, right: width, top: y0 - 4, bottom });
      if (found) write(chart, text, ...found, { size: 12, kind: "name" });
    }
    return end;
  };

  return (place_, figure, hover) => {
    const { data: traces, layout } = figure, width = Math.max(240, place_.clientWidth), chart = make("svg", { class: "drawing" });
    let top = 0;
    const shown = layout.legend ? traces.filter((trace) => trace.name) : [];
    if (shown.length) top = legend(chart, shown, width, 0);
    const suffixes = [...new Set(traces.map((trace) => axisOf(trace, "x").slice(1)))];
    suffixes.sort((a, b) => (layout[`yaxis${b}`].domain?.[0] ?? 0) - (layout[`yaxis${a}`].domain?.[0] ?? 0));
    for (const suffix of suffixes) {
      const own = traces.filter((trace) => axisOf(trace, "x").slice(1) === suffix);
      const shapes = suffix ? [] : layout.shapes ?? [];
      top = panel(chart, own, layout[`xaxis${suffix}`], layout[`yaxis${suffix}`], { width, top, shapes, hover }) + 14;
    }
    chart.setAttribute("viewBox", `0 0 ${width} ${top}`);
    chart.setAttribute("width", width);
    chart.setAttribute("height", top);
    place_.replaceChildren(chart);
  };
})();
