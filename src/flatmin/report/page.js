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
    // the ticks of a log axis are set for the whole range; a reader who zooms in needs finer ones
    div.on("plotly_relayout", (change) => {
      const zoomed = ["xaxis", "yaxis"].filter((a) => `${a}.range[0]` in change && div.layout[a].dtick !== null);
      if (zoomed.length) Plotly.relayout(div, Object.fromEntries(zoomed.map((a) => [`${a}.dtick`, null])));
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
