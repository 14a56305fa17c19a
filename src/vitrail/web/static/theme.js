// Light and dark: the system's choice until the user makes one.

const NAME = "vitrail-theme";

function stored() {
  try {
    return localStorage.getItem(NAME);
  } catch {
    return null; // storage may be forbidden
  }
}

/** Lets the button change the theme; gives back the same as a function. */
export function listenToTheme(button) {
  const root = document.documentElement;
  const chosen = stored();
  if (chosen) root.dataset.theme = chosen;
  const change = () => {
    const now = root.dataset.theme ?? (matchMedia("(prefers-color-scheme: light)").matches ? "light" : "dark");
    root.dataset.theme = now === "dark" ? "light" : "dark";
    try {
      localStorage.setItem(NAME, root.dataset.theme);
    } catch {
      // Not kept, then.
    }
  };
  button.addEventListener("click", change);
  return change;
}
