"use strict";
(() => {
  const numbers = JSON.parse(document.getElementById("one-step-numbers").textContent);
  const byId = (name) => document.getElementById(`one-step-${name}`);
  const slider = byId("slider");
  const COLORS = [[0, 114, 178], [230, 159, 0]]; // of the classes, as in all figures
  const MARGIN = 0.4, ASPECT = 0.8;
  let layer = 0, timer = null;

  // The regions: the only thing that is computed here, from the params of the step
  const range = [0, 1].map((i) => {
    const values = numbers.points.map((point) => point[i]);
    return [Math.min(...values) - MARGIN, Math.max(...values) + MARGIN];
  });

  function classOf(params, x, y) {
    const w1 = params["fc1.weight"], b1 = params["fc1.bias"];
    const w2 = params["fc2.weight"], b2 = params["fc2.bias"];
    let a = b2[0], b = b2[1];
    for (let j = 0; j < w1.length; j++) {
      const h = w1[j][0] * x + w1[j][1] * y + b1[j];
      if (h > 0) { a += w2[0][j] * h; b += w2[1][j] * h; }
    }
    return b > a ? 1 : 0;
  }

  function drawRegions(context, params, width, height) {
    const picture = context.createImageData(width, height);
    const [[left, right], [bottom, top]] = range;
    const classes = new Uint8Array(width * height);
    for (let j = 0; j < height; j++) {
      for (let i = 0; i < width; i++) {
        const x = left + (right - left) * (i + 0.5) / width;
        const y = top - (top - bottom) * (j + 0.5) / height;
        classes[j * width + i] = classOf(params, x, y);
      }
    }
    for (let k = 0; k < classes.length; k++) {
      const edge = (k % width && classes[k] !== classes[k - 1]) ||
        (k >= width && classes[k] !== classes[k - width]);
      picture.data.set([...(edge ? [90, 90, 90] : COLORS[classes[k]]), edge ? 255 : 60], 4 * k);
    }
    context.putImageData(picture, 0, 0);
  }

  function drawPoints(context, width, height, scale) {
    const [[left, right], [bottom, top]] = range, size = 2.6 * scale;
    numbers.points.forEach(([x, y], n) => {
      const i = width * (x - left) / (right - left), j = height * (top - y) / (top - bottom);
      const color = `rgb(${COLORS[numbers.classes[n]]})`;
      context.beginPath();
      if (numbers.classes[n]) context.rect(i - size, j - size, 2 * size, 2 * size);
      else context.arc(i, j, size, 0, 2 * Math.PI);
      context.lineWidth = scale;
      context.strokeStyle = context.fillStyle = color;
      if (n < numbers.training) context.fill(); else context.stroke();
      if (n < numbers.examples) { // the batch whose matrices are shown
        context.beginPath();
        context.arc(i, j, 2.4 * size, 0, 2 * Math.PI);
        context.strokeStyle = getComputedStyle(context.canvas).color;
        context.lineWidth = 1.4 * scale;
        context.stroke();
      }
    });
  }

  const views = numbers.nets.map((net) => {
    const box = document.createElement("div");
    const canvas = document.createElement("canvas"), title = document.createElement("div");
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `Decision boundary: ${net.title}`);
    box.append(title, canvas);
    byId("boundaries").append(box);
    return { net, canvas, title };
  });

  function drawBoundaries(at) {
    for (const { net, canvas, title } of views) {
      const scale = Math.min(window.devicePixelRatio || 1, 2);
      const width = Math.max(80, Math.round((canvas.clientWidth || 300) * scale));
      const height = Math.round(ASPECT * width);
      if (canvas.width !== width) { canvas.width = width; canvas.height = height; }
      const context = canvas.getContext("2d", { willReadFrequently: true });
      context.clearRect(0, 0, width, height);
      drawRegions(context, net.params[at], width, height);
      drawPoints(context, width, height, scale);
      title.innerHTML = `<b>${net.title}</b>, test ${(100 * net.accuracy[at]).toFixed(1)}%`;
    }
  }

  // The matrices: what the package computed
  const digitsFor = (largest) => Math.min(5, Math.max(0, 2 - Math.floor(Math.log10(largest))));

  function table(values) {
    const rows = Array.isArray(values[0]) ? values : [values];
    const largest = Math.max(...rows.flat().map(Math.abs)) || 1;
    const made = document.createElement("table"), digits = digitsFor(largest);
    for (const row of rows) {
      const line = made.insertRow();
      for (const value of row) {
        const cell = line.insertCell(), share = 0.55 * Math.abs(value) / largest;
        cell.textContent = value.toFixed(digits).replace("-", "\u2212");
        cell.style.background = `rgba(${value < 0 ? "213, 94, 0" : "0, 114, 178"}, ${share})`;
      }
    }
    return made;
  }

  const shape = (values) => Array.isArray(values[0])
    ? `${values.length} \u00d7 ${values[0].length}` : `${values.length}`;

  function drawMatrices(at) {
    const chosen = numbers.layers[layer], place = byId("matrices");
    place.replaceChildren();
    ["forward", "backward"].forEach((way, i) => {
      const box = document.createElement("div");
      box.className = `way ${way}`;
      box.innerHTML = `<b>${way}</b><div class="wide">${chosen.formulas[i]}</div>`;
      const arrays = document.createElement("div");
      arrays.className = "arrays";
      for (const { math, name } of chosen.shown[i]) {
        const values = numbers.arrays[at][name], array = document.createElement("div");
        array.className = "array";
        array.dataset.name = name;
        array.innerHTML = `${math}<span>${shape(values)}</span>`;
        array.append(table(values));
        arrays.append(array);
      }
      box.append(arrays);
      place.append(box);
    });
  }

  function draw() {
    const at = Number(slider.value);
    byId("readout").textContent = `step ${numbers.steps[at]}: loss of the batch ` +
      `${numbers.loss[at].toFixed(3)}; the gradients of both differ by at most ` +
      `${numbers.difference[at]}`;
    drawBoundaries(at);
    drawMatrices(at);
  }

  function stop() {
    clearInterval(timer);
    timer = null;
    byId("play").textContent = "Play";
  }

  function advance() {
    if (Number(slider.value) >= numbers.steps.length - 1) return stop();
    slider.value = Number(slider.value) + 1;
    draw();
  }

  numbers.layers.forEach(({ name }, i) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = name;
    button.setAttribute("aria-pressed", String(i === layer));
    button.addEventListener("click", () => {
      layer = i;
      [...byId("layers").children].forEach((other, k) =>
        other.setAttribute("aria-pressed", String(k === i)));
      drawMatrices(Number(slider.value));
    });
    byId("layers").append(button);
  });
  byId("play").addEventListener("click", () => {
    if (timer) return stop();
    if (Number(slider.value) >= numbers.steps.length - 1) slider.value = 0;
    byId("play").textContent = "Stop";
    timer = setInterval(advance, 400);
    draw();
  });
  slider.max = numbers.steps.length - 1;
  slider.value = numbers.steps.indexOf(60);
  slider.addEventListener("input", draw);
  window.addEventListener("resize", () => drawBoundaries(Number(slider.value)));
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  draw();
})();
