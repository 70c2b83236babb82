import { createRoot, hydrateRoot } from "react-dom/client";
import { App, type Settings } from "./app";

declare global {
  interface Window {
    render: (settings: Settings, isFromServer: boolean) => void;
  }
}

window.render = (settings, isFromServer) => {
  const root = document.querySelector("#root")!;
  if (isFromServer) hydrateRoot(root, <App {...settings} />);
  else createRoot(root).render(<App {...settings} />);
};
