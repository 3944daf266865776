// The theme: the system's, light or dark. It runs before the page is drawn.

(() => {
  const KEY = "iot-sensor-theme";
  const ORDER = ["system", "light", "dark"];
  const darkSystem = matchMedia("(prefers-color-scheme: dark)");

  function read() {
    try {
      const stored = localStorage.getItem(KEY);
      return ORDER.includes(stored) ? stored : "system";
    } catch {
      return "system"; // the browser allows no storage
    }
  }

  let theme = read();

  function apply() {
    const dark = theme === "system" ? darkSystem.matches : theme === "dark";
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    window.dispatchEvent(new Event("themechange"));
  }

  apply();
  darkSystem.addEventListener("change", apply);

  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const label = () => {
      button.setAttribute("aria-label", `Theme: ${theme}`);
      button.title = `Theme: ${theme}`;
    };
    label();
    button.addEventListener("click", () => {
      theme = ORDER[(ORDER.indexOf(theme) + 1) % ORDER.length];
      apply();
      label();
      try {
        localStorage.setItem(KEY, theme);
      } catch {
        // The theme lasts until the page is closed.
      }
    });
  });
})();
