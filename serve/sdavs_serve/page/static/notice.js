// What the visitor is told while the endpoint works, and when it refuses.

import { Cancelled, key, Problem, segment } from "./api.js";
import { $, percent, say } from "./dom.js";
import { askForKey } from "./keys.js";

let running = null;

/** POST a clip and show how far it is. A second one ends the first. Throws as `segment` does. */
export async function ask(request, what) {
  running?.abort();
  const mine = (running = new AbortController());
  const bar = $("progress-bar");
  $("progress").hidden = false;
  $("progress-text").textContent = "Uploading";
  bar.value = 0;
  say(`Uploading. ${what}`);
  const onProgress = (share) => {
    bar.value = share;
    $("progress-text").textContent = `Uploading, ${percent(share)}`;
    if (share < 1) return;
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

/** Do something that may be refused. What was there stays there; the visitor may try again. `about` names the file. */
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
    problem.retryAfter && `Possible again in ${problem.retryAfter} s.`,
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
