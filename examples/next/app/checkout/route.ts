import { redirect } from "next/navigation";
import Stripe from "stripe";
import { auth } from "@/auth";

export async function POST(request: Request) {
  const user = (await auth())?.user;
  if (!user?.id) redirect("/sign-in");
  const site = request.headers.get("origin"); // the browser sends it with every form
  const stripe = new Stripe(process.env.STRIPE_SECRET_KEY!);
  const session = await stripe.checkout.sessions.create({
    mode: "subscription",
    line_items: [{ price: process.env.STRIPE_PRICE_ID, quantity: 1 }],
    // The service gives access to the learner that these name, by the site's own id of the user.
    client_reference_id: user.id,
    subscription_data: { metadata: { userId: user.id } },
    success_url: `${site}/`,
    cancel_url: `${site}/`,
  });
  redirect(session.url!);
}
