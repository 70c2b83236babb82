"use client";

import { useRouter } from "next/navigation";
import { useEffect, useRef } from "react";
import { Offer } from "./offer";

/** The dashboard. Its links go through the site's router, and a tick renders the numbers of the server again. */
export function Dashboard() {
  const router = useRouter();
  const element = useRef<HTMLElementTagNameMap["course-progress"]>(null);

  // Not as props: React drops listeners of an element that came as HTML from the server.
  useEffect(() => {
    const unmounted = new AbortController();
    const options = { signal: unmounted.signal };
    element.current?.addEventListener("progress-change", () => router.refresh(), options);
    element.current?.addEventListener(
      "progress-navigate",
      (event) => {
        event.preventDefault();
        router.push(event.detail.href);
      },
      options,
    );
    return () => unmounted.abort();
  }, [router]);

  return (
    <course-progress ref={element} lesson-href="/lessons/{lessonId}">
      <div slot="offer">
        <Offer />
      </div>
    </course-progress>
  );
}
