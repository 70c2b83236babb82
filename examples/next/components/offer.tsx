export function Offer() {
  return (
    <form action="/checkout" method="post">
      <button>Become a member</button>
    </form>
  );
}
