// Requests to the endpoint: the key, JSON, uploads with progress, and its problem documents as errors.

const STORED_KEY = "sdavs-api-key";

export const key = {
  get: () => sessionStorage.getItem(STORED_KEY) ?? "",
  set: (value) => (value ? sessionStorage.setItem(STORED_KEY, value) : sessionStorage.removeItem(STORED_KEY)),
};

/** An error of the endpoint as defined by RFC 9457: title, detail, status, limit, request_id. */
export class Problem extends Error {
  constructor({ title, detail = "", status = 0, limit, request_id, retryAfter }) {
    super(`${title}: ${detail}`);
    Object.assign(this, { title, detail, status, limit, requestId: request_id, retryAfter });
  }
}

/** The user stopped it. */
export class Cancelled extends Error {}

const headers = () => (key.get() ? { Authorization: `Bearer ${key.get()}` } : {});

/** GET a JSON document. Throws a Problem. */
export async function getJson(path) {
  let answer;
  try {
    answer = await fetch(path, { headers: headers(), cache: "no-store" });
  } catch {
    throw unreachable();
  }
  if (!answer.ok) throw problemOf(answer.status, answer.statusText, await answer.text(), answer.headers.get("Retry-After"));
  return answer.json();
}

/**
 * POST /v1/segment.
 *
 * @param request.video the clip, a Blob
 * @param request.sound a Blob that replaces the clip's own sound, or null
 * @param request.fps masks a second
 * @param request.accept media type of the answer
 * @param request.version insist on this version of the model, or null
 * @param onProgress called with the uploaded fraction, from 0 to 1
 * @param signal an AbortSignal
 * @returns the answer as a Blob. Throws a Problem, or Cancelled.
 */
export function segment({ video, sound, fps, accept, version = null }, { onProgress, signal }) {
  const form = new FormData();
  form.append("video", video, "video");
  if (sound) form.append("audio", sound, "audio");
  form.append("fps", String(fps));
  // fetch() cannot report how much of a body has been sent.
  const request = new XMLHttpRequest();
  return new Promise((resolve, reject) => {
    request.open("POST", "v1/segment");
    request.responseType = "blob";
    const pin = version === null ? {} : { "X-Model-Version": version };
    for (const [name, value] of Object.entries({ ...headers(), ...pin, Accept: accept })) request.setRequestHeader(name, value);
    request.upload.addEventListener("progress", (event) => onProgress(event.loaded / event.total));
    request.addEventListener("load", async () => {
      if (request.status === 200) return resolve(request.response);
      const body = await request.response.text();
      reject(problemOf(request.status, request.statusText, body, request.getResponseHeader("Retry-After")));
    });
    request.addEventListener("error", () => reject(unreachable()));
    request.addEventListener("abort", () => reject(new Cancelled()));
    signal.addEventListener("abort", () => request.abort());
    request.send(form);
  });
}

function problemOf(status, statusText, body, retryAfter) {
  try {
    return new Problem({ ...JSON.parse(body), retryAfter });
  } catch {
    // Not from the endpoint: Serve's proxy answers in plain text while no application runs.
    return new Problem({ title: statusText || `Error ${status}`, detail: body.slice(0, 200), status, retryAfter });
  }
}

function unreachable() {
  return new Problem({ title: "No answer", detail: "The endpoint cannot be reached, or it closed the connection." });
}
