// The wire: every request of the page goes through here.

/** The server answered, and said no; `message` is a sentence for the user. */
export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** No answer at all. */
export class ServerGone extends Error {
  constructor() {
    super("The server does not answer.");
  }
}

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new ServerGone();
  }
  if (response.ok) return response;
  let said = `The server answered ${response.status}.`;
  try {
    said = (await response.json()).error ?? said;
  } catch {
    // Not JSON: the status has to do.
  }
  throw new Refused(said, response.status);
}

const numbers = (text) => (text ? text.split(",").map(Number) : []);

export async function getJson(path) {
  return (await ask(path, { cache: "no-store" })).json();
}

export async function postJson(path, body) {
  const options = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  return (await ask(path, options)).json();
}

/** Raw bytes and what the headers say about them: `{data, shape, top, prefix}`. */
export async function getArray(path) {
  const response = await ask(path);
  const data = await response.arrayBuffer();
  return {
    data,
    shape: numbers(response.headers.get("X-Shape")),
    top: numbers(response.headers.get("X-Top")),
    prefix: numbers(response.headers.get("X-Prefix")),
  };
}

export async function getBlob(path) {
  return (await ask(path)).blob();
}

/** Sends a picture. A server that hangs up in the middle has usually had enough of its size. */
export async function sendPicture(file) {
  const name = encodeURIComponent(file.name || "pasted.png");
  try {
    return await (await ask(`/api/pictures?name=${name}`, { method: "POST", body: file })).json();
  } catch (error) {
    if (!(error instanceof ServerGone)) throw error;
    await getJson("/api/health"); // throws when the server is really gone
    throw new Refused("The upload was refused: the file is probably too large.", 413);
  }
}
