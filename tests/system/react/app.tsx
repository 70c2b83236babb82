// A site's page: the components as docs/front-end.md shows them to users of React, and what they told the page.
import { StrictMode, useState } from "react";
import { CourseProgress } from "./course-progress";
import { useProgress } from "./use-progress";

export type Settings = { token: string; moduleId: string; lessonId: string };

const LABELS = { mark: "Done!" };

function Page({ token, moduleId }: Settings) {
  const view = useProgress();
  const [told, tell] = useState("nothing");
  return (
    <main>
      <h1>A course</h1>
      <p id="store">{view ? `${view.status}: ${view.overall.percent}%` : "none"}</p>
      <p id="told">{told}</p>
      <CourseProgress
        token={() => token}
        labels={LABELS}
        href={({ module, title }) => (module.moduleId === moduleId ? `/lessons/${title}` : null)}
        onChange={({ detail }) => tell(`changed ${detail.overall.percent}%`)}
        onNavigate={(event) => {
          event.preventDefault();
          tell(event.detail.href);
        }}
      >
        <a slot="signed-out" href="/sign-in">
          Sign in
        </a>
      </CourseProgress>
    </main>
  );
}

export function App(settings: Settings) {
  return (
    <StrictMode>
      <Page {...settings} />
    </StrictMode>
  );
}
