// Messages for the visitor: progress of a request, and errors.

import { Cancelled, key, Problem, segment } from "./api.js";
import { $, percent, say } from "./dom.js";
import { askForKey } from "./keys.js";

let running = null;

/** POST a clip and show the progress. A second request aborts the first. Throws as `segment` does. */
export async function ask(request, what) {
  running?.abort();
  const mine = (running = new AbortController());
  const bar = $("progress-bar");
  $("progress").hidden = false;
  $("progress-text").textContent = "Uploading";
  bar.value = 0;
  say(`Uploading. ${what}`);
  const onProgress = (fraction) => {
    bar.value = fraction;
    $("progress-text").textContent = `Uploading, ${percent(fraction)}`;
    if (fraction < 1) return;
    bar.removeAttribute("value");
    $("progress-text").textContent = what;
    say(what);
  };
  try {
    return await segment(request, { onProgress, signal: mine.signal });
  } finally {
    if (running === mine) $("progress").hidden = true;
  }
}

/** Run `work` and show its error, if any. What was shown before stays; the visitor may retry. `about` names the file. */
export async function attempt(work, about = "") {
  hideProblem();
  try {
    return await work();
  } catch (error) {
    if (error instanceof Cancelled) say("Cancelled.");
    else if (error instanceof Problem) showProblem(error, about, () => attempt(work, about));
    else throw error;
  }
}

function showProblem(problem, about, retry) {
  const needsKey = problem.status === 401 || problem.status === 403;
  const more = [
    problem.limit && `Limit: ${problem.limit}.`,
    problem.retryAfter && `Try again in ${problem.retryAfter} s.`,
    problem.requestId && `Request ${problem.requestId}.`,
  ];
  $("problem-title").textContent = about ? `${about}: ${problem.title}.` : `${problem.title}.`;
  $("problem-detail").textContent = `${problem.detail[0]?.toUpperCase() ?? ""}${problem.detail.slice(1)}`;
  $("problem-more").textContent = more.filter(Boolean).join(" ");
  $("problem-retry").textContent = needsKey ? (key.get() ? "Enter another key" : "Enter an API key") : "Try again";
  $("problem-retry").onclick = needsKey ? () => askForKey(retry) : retry;
  $("problem").hidden = false;
  $("problem").scrollIntoView({ block: "nearest" });
}

function hideProblem() {
  $("problem").hidden = true;
}

export function wireNotices() {
  $("problem-close").addEventListener("click", hideProblem);
  $("progress-cancel").addEventListener("click", () => running?.abort());
}
