// The server: its answers, and what the page says about them.

export const find = id => document.getElementById(id);

// The key stays in this tab: sessionStorage is gone when it is closed.
find("key").value = sessionStorage.getItem("key") ?? "";
find("access-form").addEventListener("submit", e => {
  e.preventDefault();
  sessionStorage.setItem("key", find("key").value);
});

// An answer that is no error. Errors are shown in the server's own words.
export async function ask(path, body, signal) {
  const headers = find("key").value ? { Authorization: `Bearer ${find("key").value}` } : {};
  const init = body ? { method: "POST", body: JSON.stringify(body) } : {};
  if (body) headers["Content-Type"] = "application/json";
  const answer = await fetch(path, { ...init, headers, signal });
  if (answer.ok) return answer;
  const text = await answer.text();
  let message = text;
  try {
    message = JSON.parse(text).error.message;
  } catch { /* no error of ours: what it says is shown as it is */ }
  if (answer.status === 401) find("access").open = true;
  throw new Error(message || `The server answered ${answer.status}.`);
}

export function say(text) {
  find("status").textContent = text;
}

export function fail(error) {
  find("error").textContent = error ? error.message : "";
  find("error").hidden = !error;
}
