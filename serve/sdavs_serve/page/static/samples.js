// The sample clips: shown with their first frame, fetched when chosen.

import { Problem } from "./api.js";
import { el } from "./dom.js";

const blobs = new Map();

/** A sample's video. Throws a Problem. */
export async function fetchSample(name) {
  if (!blobs.has(name)) {
    const answer = await fetch(`page/samples/${name}.mp4`).catch(() => null);
    if (!answer?.ok) throw new Problem({ title: "No answer", detail: "The sample cannot be loaded." });
    blobs.set(name, await answer.blob());
  }
  return blobs.get(name);
}

/** Fill `list` with a button for each sample; `choose` gets the sample that is pressed. */
export function showSamples(list, samples, choose) {
  list.replaceChildren(
    ...samples.map((sample) => {
      const picture = el("img", { src: `page/samples/${sample.name}.jpg`, alt: "", width: "256", height: "256" });
      const words = el("span", {}, el("b", {}, sample.title), el("span", { class: "fine" }, sample.about));
      const button = el("button", { type: "button", class: "sample", "data-sample": sample.name }, picture, words);
      button.addEventListener("click", () => choose(sample));
      return button;
    }),
  );
}
