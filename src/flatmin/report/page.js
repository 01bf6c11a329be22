"use strict";
(() => {
  const theme = JSON.parse(document.getElementById("theme").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const config = {
    responsive: true, displaylogo: false,
    // a list of what is wanted: plotly's own choice has a button that uploads the chart
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]], plotlyServerURL: "",
  };
  const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)).join(", ");

  // the stored plot in the colours of the present theme
  const load = (div) => {
    let text = document.getElementById(`${div.id}-data`).textContent;
    if (dark.matches) {
      for (const [from, to] of Object.entries(theme)) {
        text = text.replaceAll(`"${from}"`, `"${to}"`).replaceAll(`rgba(${rgb(from)},`, `rgba(${rgb(to)},`);
      }
    }
    return JSON.parse(text);
  };

  // as `log_ticks` and `tick_text` of report/style.py
  const logLabels = (a, b) => {
    const [low, high] = a < b ? [a, b] : [b, a];
    const first = Math.floor(Math.log10(low)), last = Math.ceil(Math.log10(high));
    const marks = (digits, stride = 1) => {
      const values = [];
      for (let p = Math.ceil(first / stride) * stride; p <= last; p += stride) {
        for (const d of digits) values.push(Number(`${d}e${p}`));
      }
      return values.filter((v) => v >= low && v <= high);
    };
    const choices = [marks([1, 2, 3, 4, 5, 6, 7, 8, 9]), marks([1, 2, 5])];
    for (let stride = 1; stride <= last - first; stride += 1) choices.push(marks([1], stride));
    let chosen = choices.find((values) => values.length >= 2 && values.length <= 6);
    if (!chosen) {
      const power = 10 ** Math.floor(Math.log10((high - low) / 3));
      const step = Math.max(...[1, 2, 5].map((d) => d * power).filter((s) => s <= (high - low) / 2));
      chosen = [];
      for (let i = Math.ceil(low / step); i <= Math.floor(high / step); i += 1) chosen.push(Number((i * step).toPrecision(12)));
    }
    const raised = (p) => `10${String(p).replace("-", "⁻").replace(/[0-9]/g, (d) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[d])}`;
    const text = (v) => {
      if (low >= 9e-4 && high < 2e4) return String(Number(v.toPrecision(6)));
      const power = Math.floor(Math.log10(v) + 1e-9);
      const factor = Number((v / 10 ** power).toPrecision(3));
      return factor === 1 ? raised(power) : `${factor}×${raised(power)}`;
    };
    return [chosen, chosen.map(text)];
  };

  const hidden = (figure) =>
    new Set([...figure.querySelectorAll('button[aria-pressed="false"]')].map((b) => b.dataset.label));

  const draw = (div) => {
    const plot = load(div);
    const off = hidden(div.closest("figure"));
    for (const trace of plot.data) {
      if (trace.legendgroup !== undefined) trace.visible = !off.has(trace.legendgroup);
    }
    plot.layout.autosize = true;
    plot.layout.hoverlabel = dark.matches
      ? { bgcolor: "#22252b", font: { color: "#e8e8ea" } }
      : { bgcolor: "#ffffff", font: { color: "#1b1b1c" } };
    return Plotly.react(div, plot.data, plot.layout, config);
  };

  document.documentElement.classList.add("js");
  const plots = [...document.querySelectorAll(".plot")];
  plots.forEach((div) => {
    draw(div);
    // the labels of a log axis are set for the whole range; a reader who zooms in needs finer ones
    div.on("plotly_relayout", (change) => {
      const first = load(div).layout;
      const ticks = {};
      for (const a of ["xaxis", "yaxis"].filter((name) => first[name] && first[name].type === "log")) {
        let labels = null;
        if (`${a}.range[0]` in change) labels = logLabels(10 ** change[`${a}.range[0]`], 10 ** change[`${a}.range[1]`]);
        else if (change[`${a}.autorange`]) labels = [first[a].tickvals, first[a].ticktext];
        if (labels) [ticks[`${a}.tickvals`], ticks[`${a}.ticktext`]] = labels;
      }
      if (Object.keys(ticks).length) Plotly.relayout(div, ticks);
    });
  });
  dark.addEventListener("change", () => plots.forEach(draw));
  for (const button of document.querySelectorAll(".legend button")) {
    button.addEventListener("click", () => {
      button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") === "false"));
      button.closest("figure").querySelectorAll(".plot").forEach(draw);
    });
  }
  // what is printed must be seen
  window.addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((d) => { d.open = true; }));
})();
