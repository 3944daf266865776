// The theme: the system's, light or dark. It runs before the page is drawn.

(() => {
  const KEY = "iot-sensor-theme";
  const ORDER = ["system", "light", "dark"];
  const root = document.documentElement;

  function read() {
    try {
      const stored = localStorage.getItem(KEY);
      return ORDER.includes(stored) ? stored : "system";
    } catch {
      return "system"; // the browser allows no storage
    }
  }

  function apply(theme) {
    if (theme === "system") root.removeAttribute("data-theme");
    else root.setAttribute("data-theme", theme);
  }

  let theme = read();
  apply(theme);

  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const announce = () => window.dispatchEvent(new Event("themechange"));
    const label = () => {
      button.setAttribute("aria-label", `Theme: ${theme}`);
      button.title = `Theme: ${theme}`;
      button.dataset.theme = theme;
    };
    label();
    button.addEventListener("click", () => {
      theme = ORDER[(ORDER.indexOf(theme) + 1) % ORDER.length];
      apply(theme);
      label();
      try {
        localStorage.setItem(KEY, theme);
      } catch {
        // The theme lasts until the page is closed.
      }
      announce();
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", announce);
  });
})();
