// The timeline: the waveform of the sound, and for each sound tried one row of bars, how much the model marked.

import { el, svg } from "./dom.js";
import { peaks } from "./sound.js";

const STEPS = 240;
const LONGEST_DRAWN_S = 600; // decoding an hour of sound for a drawing would take half a gigabyte

/**
 * Draw the rows.
 *
 * @param rows element to fill
 * @param answers [{label, answer, current}], one for each sound that the model was given
 */
export function drawAnswers(rows, answers) {
  rows.querySelectorAll(".bars").forEach((row) => row.remove());
  const largest = Math.max(0.02, ...answers.flatMap(({ answer }) => answer.frames.map((frame) => frame.area)));
  for (const { label, answer, current } of answers) {
    const width = 1000 / answer.frames.length;
    const bars = answer.frames.map(({ area, score }, index) => {
      const height = area ? Math.max(4, (100 * area) / largest) : 0;
      return svg("rect", {
        x: index * width + 2,
        y: 100 - height,
        width: Math.max(1, width - 4),
        height,
        "fill-opacity": 0.25 + 0.75 * score,
      });
    });
    const picture = svg("svg", { viewBox: "0 0 1000 100", preserveAspectRatio: "none" }, ...bars);
    rows.append(el("div", { class: current ? "row bars current" : "row bars" }, el("span", {}, label), picture));
  }
}

/** Draw the waveform of a sound (null: silence) into the first row; empty if the browser cannot decode the sound. */
export async function drawSound(rows, blob, seconds, isCurrent) {
  const loud = blob && seconds <= LONGEST_DRAWN_S ? await peaks(blob, seconds, STEPS) : null;
  if (!isCurrent()) return;
  rows.querySelector(".wave")?.remove();
  const step = 1000 / STEPS;
  const top = Math.max(0.05, ...(loud ?? []));
  const up = (loud ?? []).map((peak, i) => `L${(i + 0.5) * step} ${50 - (46 * peak) / top}`);
  const down = (loud ?? []).map((peak, i) => `L${(i + 0.5) * step} ${50 + (46 * peak) / top}`).reverse();
  const outline = `M0 49.5 ${up.join("")} L1000 49.5 L1000 50.5 ${down.join("")} L0 50.5Z`;
  const picture = svg("svg", { viewBox: "0 0 1000 100", preserveAspectRatio: "none" }, svg("path", { d: outline }));
  rows.prepend(el("div", { class: "row wave" }, el("span", {}, "Sound"), picture));
}
