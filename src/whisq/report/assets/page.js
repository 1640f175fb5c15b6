"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const root = document.documentElement;
  const state = { candidate: data.chosen, colour: "type", shown: 10, sort: { column: 5, down: false } };

  // Small helpers for elements; text never goes through HTML.
  const element = (name, attributes = {}, ...children) => {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };

  const plainLines = (text) => text.replaceAll(/<\/?b>/g, "").split("<br>").map((line) => line.replaceAll("&lt;", "<")
    .replaceAll("&gt;", ">").replaceAll("&#37;", "%").replaceAll("&#40;", "(").replaceAll("&amp;", "&"));
  // What a mark stands for, beside the pointer; the tables have it for those who have none.
  const tip = byId("tip");
  const hover = (target, lines) => {
    const show = (event) => {
      tip.replaceChildren(...lines.map((line, index) => element(index ? "span" : "strong", {}, line)));
      tip.hidden = false;
      const { width, height } = tip.getBoundingClientRect();
      tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - width - 8))}px`;
      tip.style.top = `${event.clientY + 18 + height > innerHeight ? event.clientY - height - 12 : event.clientY + 18}px`;
    };
    target.addEventListener("pointerenter", show);
    target.addEventListener("pointermove", show);
    target.addEventListener("pointerleave", () => { tip.hidden = true; });
  };
  const draw = (name) => {
    const place = byId(`${name}-chart`);
    if (place && data.figures[name] && place.clientWidth) drawChart(place, data.figures[name], hover);
  };
  const drawAll = () => ["ladder", "size", "difference", "speed", "inside", "curve"].forEach(draw);

  // The map: a row for each block, a cell for each matrix.
  const colourOf = (map, value) => {
    const scale = map.colorscale;
    if (map.zmin !== undefined) return scale[2 * value][1];
    const values = map.z.flat().filter((one) => one !== null), low = Math.min(...values), high = Math.max(...values);
    const part = high > low ? (value - low) / (high - low) : 1;
    const [from, to, share] = part < 0.5 ? [scale[0][1], scale[1][1], 2 * part] : [scale[1][1], scale[2][1], 2 * part - 1];
    return `color-mix(in srgb, ${to} ${(100 * share).toFixed(0)}%, ${from})`;
  };
  const drawMap = () => {
    const table = byId("map-table"), maps = data.figures.maps[state.candidate];
    if (!table || !maps) return;
    const map = maps[state.colour].data[0];
    const head = element("tr", {}, element("th", { scope: "col" }, "block"),
      ...map.x.map((role) => element("th", { scope: "col" }, element("span", {}, role))));
    const body = element("tbody");
    map.y.forEach((block, row) => {
      const line = element("tr", {}, element("th", { scope: "row" }, block));
      map.x.forEach((_, column) => {
        const text = map.text[row][column], cell = element("td", {}, text);
        if (text) {
          cell.style.background = colourOf(map, map.z[row][column]);
          hover(cell, plainLines(map.hovertext[row][column]));
        }
        line.append(cell);
      });
      body.append(line);
    });
    table.replaceChildren(element("caption", { class: "sr" }, `Every matrix by ${state.colour}`), element("thead", {}, head), body);
  };

  // Theme: the system's until the button says otherwise; print is always light.
  const setTheme = (theme) => {
    root.dataset.theme = theme;
    byId("theme").textContent = theme === "dark" ? "Light theme" : "Dark theme";
  };
  byId("theme").addEventListener("click", () => setTheme(root.dataset.theme === "dark" ? "light" : "dark"));
  let drawnAt = 0;
  addEventListener("resize", () => {
    if (drawnAt !== innerWidth) { drawnAt = innerWidth; drawAll(); }
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", (event) =>
    setTheme(event.matches ? "dark" : "light"));
  let before = null;
  addEventListener("beforeprint", () => {
    before = root.dataset.theme;
    setTheme("light");
    for (const details of document.querySelectorAll("details")) details.open = true;
  });
  addEventListener("afterprint", () => setTheme(before ?? root.dataset.theme));

  // Tensors: name, type, from, weights, MB, dB, relative error; of the last two null is infinite.
  const columns = ["tensor", "type", "from", "weights", "MB", "SNR, dB", "error, %"];
  const equal = (row) => row[6] === 0;
  const decibels = (row) => (equal(row) ? "no difference" : row[5] === null ? "−∞" : row[5].toFixed(1));
  const cells = (row) => [row[0], row[1], row[2], row[3].toLocaleString("en"), row[4].toFixed(2), decibels(row),
    row[6] === null ? "∞" : row[6].toFixed(3)];
  const drawTensors = () => {
    const table = byId("tensor-table");
    if (!table) return;
    const { column, down } = state.sort;
    const key = (row) => row[column] ?? (column === 5 && !equal(row) ? -Infinity : Infinity);
    const rows = [...data.tensors[state.candidate]].sort((a, b) => {
      const order = typeof key(a) === "string" ? key(a).localeCompare(key(b), "en", { numeric: true }) : key(a) - key(b);
      return (Number.isNaN(order) ? 0 : order) * (down ? -1 : 1);
    });
    const head = element("tr");
    columns.forEach((name, index) => {
      const button = element("button", { type: "button" }, name);
      button.addEventListener("click", () => {
        state.sort = { column: index, down: state.sort.column === index ? !state.sort.down : false };
        drawTensors();
        table.querySelectorAll("thead button")[index].focus();
      });
      const sorted = index === column ? (down ? "descending" : "ascending") : "none";
      head.append(element("th", { scope: "col", "aria-sort": sorted }, button));
    });
    const body = element("tbody");
    for (const row of rows) {
      const [name, ...rest] = cells(row);
      body.append(element("tr", {}, element("th", { scope: "row" }, name), ...rest.map((text, index) => element("td", { "data-label": columns[index + 1] }, text))));
    }
    table.replaceChildren(element("caption", { class: "sr" }, "Every tensor"), element("thead", {}, head), body);
  };
  const drawOutside = () => {
    if (!byId("map-outside")) return;
    const outside = data.tensors[state.candidate].filter((row) => !row[0].includes(".blocks."));
    byId("map-outside").textContent = "Outside the blocks: " + outside.map((row) =>
      `${row[0]} is ${row[1]} (${equal(row) ? "as in the reference" : `${decibels(row)} dB`})`).join(", ") + ".";
  };

  // Transcripts.
  const hidden = (text) => element("span", { class: "sr" }, text);
  const marked = (marks, language) => {
    const line = element("p", { lang: language });
    for (const [kind, said, written] of marks) {
      if (kind === "equal") line.append(`${said} `);
      if (kind === "delete" || kind === "substitute") line.append(element("del", {}, hidden("left out: "), said), " ");
      if (kind === "insert" || kind === "substitute") line.append(element("ins", {}, hidden("written: "), written), " ");
    }
    return line;
  };
  const errors = (count) => (count === 1 ? "1 error" : `${count} errors`);
  const side = (label, model, language) => {
    const loops = model.runaway ? `, ${model.runaway} of them repetition` : "";
    const box = element("div", { class: "side" }, element("h4", {}, `${label}: ${errors(model.edits)}${loops}`));
    box.append(marked(model.marks, language), element("p", { class: "raw", lang: language }, `“${model.text}”`));
    if (model.remark) box.append(element("p", { class: "raw" }, `The runtime: ${model.remark}`));
    return box;
  };
  const drawTranscripts = () => {
    const chosen = state.candidate;
    const only = byId("only-different")?.checked;
    const harm = (record) => (record.models[chosen]?.edits ?? 0) - (record.models[0]?.edits ?? 0);
    const most = (record) => Math.max(record.models[chosen]?.edits ?? 0, record.models[0]?.edits ?? 0);
    const records = data.transcripts
      .filter((record) => !only || record.models[chosen]?.text !== record.models[0]?.text)
      .sort((a, b) => harm(b) - harm(a) || most(b) - most(a));
    const list = byId("transcript-list");
    list.replaceChildren(...records.slice(0, state.shown).map((record) => {
      const sides = element("div", { class: "sides" });
      sides.append(element("div", { class: "side" }, element("h4", {}, "Said"), element("p", { lang: record.language }, record.said)));
      for (const index of new Set([0, chosen])) {
        if (record.models[index]) sides.append(side(data.labels[index], record.models[index], record.language));
      }
      return element("article", {}, element("h3", {}, record.clip),
        element("p", { class: "meta" }, `${record.duration_s} s, ${record.words} words, ${record.language}`), sides);
    }));
    const shown = Math.min(state.shown, records.length);
    byId("transcript-count").textContent = `${shown} of ${records.length} utterances shown.`;
    byId("more").hidden = shown >= records.length;
  };

  // Choices.
  const drawCandidate = () => {
    for (const place of document.querySelectorAll("[data-candidate]")) place.textContent = data.labels[state.candidate];
    const maps = Boolean(data.figures.maps[state.candidate]);
    for (const id of ["map", "tensors"]) if (byId(id)) byId(id).hidden = !maps;
    if (maps) { drawMap(); drawOutside(); drawTensors(); }
    drawTranscripts();
  };
  byId("candidate")?.addEventListener("change", (event) => {
    state.candidate = Number(event.target.value);
    drawCandidate();
  });
  byId("map-colour")?.addEventListener("change", (event) => { state.colour = event.target.value; drawMap(); });
  byId("only-different")?.addEventListener("change", () => { state.shown = 10; drawTranscripts(); });
  byId("more").addEventListener("click", () => { state.shown += 20; drawTranscripts(); });

  setTheme(root.dataset.theme);
  drawnAt = innerWidth;
  drawAll();
  drawCandidate();
  root.dataset.ready = "true";
})();
