// React 19 sets properties and listens to the events itself, if the script has run before and no HTML came from a server.
import { useState } from "react";
import { createRoot, hydrateRoot } from "react-dom/client";

declare global {
  interface Window {
    renderProperties: (token: string, isFromServer: boolean) => void;
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

window.renderProperties = (token, isFromServer) => {
  const root = document.querySelector("#root")!;
  if (isFromServer) hydrateRoot(root, <Page token={token} />);
  else createRoot(root).render(<Page token={token} />);
};
