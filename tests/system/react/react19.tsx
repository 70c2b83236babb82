// React 19 sets properties and listens to the events itself, where the script has run before.
import { useState } from "react";
import { createRoot } from "react-dom/client";

declare global {
  interface Window {
    renderProperties: (token: string) => void;
  }
}

function Page({ token }: { token: string }) {
  const [told, tell] = useState("nothing");
  return (
    <main>
      <p id="told">{told}</p>
      <course-progress
        token={() => token}
        labels={{ mark: "Done!" }}
        href={({ title }) => `/lessons/${title}`}
        count="all"
        onprogress-change={({ detail }) => tell(`changed ${detail.overall.percent}%`)}
        onprogress-navigate={(event) => {
          event.preventDefault();
          tell(event.detail.href);
        }}
      />
    </main>
  );
}

window.renderProperties = (token) => createRoot(document.querySelector("#root")!).render(<Page token={token} />);
