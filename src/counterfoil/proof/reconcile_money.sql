-- What must hold of money, on the whole database: one statement for each identity, as in reconcile.sql.

-- name: order_money_follows_payments
-- What an order says of its money is the sum of its payments, and its payment status follows from these sums.
SELECT o.id AS order_id, c.field, c.expected, c.found
FROM orders o
LEFT JOIN (
  SELECT p.order_id, sum(p.amount) FILTER (WHERE p.status = 'authorized') AS authorized,
         sum(p.captured_amount) AS captured, sum(p.refunded_amount) AS refunded,
         bool_or(p.status IN ('requires_payment', 'processing', 'unknown') OR a.open) AS in_flight,
         bool_or(p.status = 'unknown' OR a.unknown) AS unknown
  FROM payments p
  LEFT JOIN (
    SELECT payment_id, bool_or(state IN ('due', 'running', 'unknown')) AS open, bool_or(is_unknown) AS unknown
    FROM payment_attempts GROUP BY payment_id
  ) AS a ON a.payment_id = p.id
  GROUP BY p.order_id
) AS m ON m.order_id = o.id
CROSS JOIN LATERAL (VALUES
  ('authorized', coalesce(m.authorized, 0)::numeric(19,4)::text, o.authorized_amount::text),
  ('captured', coalesce(m.captured, 0)::numeric(19,4)::text, o.captured_amount::text),
  ('refunded', coalesce(m.refunded, 0)::numeric(19,4)::text, o.refunded_amount::text),
  ('payment_in_flight', coalesce(m.in_flight, false)::text, o.payment_in_flight::text),
  ('payment_unknown', coalesce(m.unknown, false)::text, o.payment_unknown::text),
  ('payment_status', CASE
     WHEN o.refunded_amount > 0 AND o.refunded_amount >= o.captured_amount THEN 'refunded'
     WHEN o.refunded_amount > 0 THEN 'partially_refunded'
     WHEN o.captured_amount > o.total_amount THEN 'overpaid'
     -- An order that costs nothing is paid as soon as somebody looks at its money.
     WHEN o.captured_amount = o.total_amount AND o.captured_amount > 0 THEN 'paid'
     WHEN o.total_amount = 0 AND o.payment_status = 'paid' THEN 'paid'
     WHEN o.total_amount = 0 THEN 'unpaid'
     WHEN o.captured_amount > 0 THEN 'partially_paid'
     WHEN o.authorized_amount >= o.total_amount THEN 'authorized'
     ELSE 'unpaid' END, o.payment_status)
) AS c (field, expected, found)
WHERE c.found <> c.expected;

-- name: payments_fit_their_order
SELECT p.order_id, p.id AS payment_id, o.currency AS expected, p.currency AS found
FROM payments p JOIN orders o ON o.id = p.order_id
WHERE p.currency <> o.currency;

-- name: refunds_fit_their_payment
-- What was given back is the sum of the refunds that succeeded, and all refunds that may yet succeed stay within what
-- was taken.
SELECT p.order_id, p.id AS payment_id, p.captured_amount AS captured, r.asked, p.refunded_amount AS expected,
       r.given AS found
FROM payments p
JOIN (
  SELECT payment_id, coalesce(sum(amount) FILTER (WHERE status = 'succeeded'), 0) AS given,
         coalesce(sum(amount) FILTER (WHERE status <> 'failed'), 0) AS asked
  FROM refunds GROUP BY payment_id
  UNION ALL
  SELECT id, 0, 0 FROM payments q WHERE NOT EXISTS (SELECT FROM refunds s WHERE s.payment_id = q.id)
) AS r ON r.payment_id = p.id
WHERE r.given <> p.refunded_amount OR r.asked > p.captured_amount;

-- name: ledger_equals_payments
-- What the ledger says is in an order is what was taken and not given back, payment by payment.
SELECT coalesce(p.order_id, l.order_id) AS order_id, payment_id,
       coalesce(p.kept, 0) AS expected, coalesce(l.balance, 0) AS found
FROM (SELECT id AS payment_id, order_id, captured_amount - refunded_amount AS kept FROM payments) AS p
FULL JOIN (
  SELECT payment_id, min(order_id) AS order_id, -sum(amount) AS balance
  FROM ledger_entries WHERE account = 'order' GROUP BY payment_id
) AS l USING (payment_id)
WHERE coalesce(p.kept, 0) <> coalesce(l.balance, 0) OR l.order_id <> p.order_id;

-- name: postings_balance
-- A posting moves one amount between an order and the gateway of its payment, so every gateway's account is the sum of
-- what was taken there and not given back.
SELECT min(l.order_id) AS order_id, l.posting, 0 AS expected, sum(l.amount) AS found,
       array_agg(l.account ORDER BY l.account) AS accounts
FROM ledger_entries l JOIN payments p ON p.id = l.payment_id
GROUP BY l.posting
HAVING sum(l.amount) <> 0 OR count(DISTINCT l.currency) <> 1 OR bool_or(l.currency <> p.currency)
    OR array_agg(l.account::text ORDER BY l.account) <> ARRAY['gateway:' || min(p.gateway), 'order'];

-- name: open_money_has_a_call
-- Whatever is on its way has a call that somebody makes or looks at, until a person is called to it.
SELECT p.order_id, p.id AS payment_id, NULL::bigint AS refund_id, p.status AS found
FROM payments p
WHERE p.status IN ('requires_payment', 'processing', 'unknown') AND p.review_reason = ''
  AND NOT EXISTS (SELECT FROM payment_attempts a WHERE a.payment_id = p.id AND a.next_at IS NOT NULL)
UNION ALL
SELECT r.order_id, r.payment_id, r.id, r.status
FROM refunds r JOIN payments p ON p.id = r.payment_id
WHERE r.status IN ('requested', 'processing', 'unknown') AND p.review_reason = ''
  AND NOT EXISTS (SELECT FROM payment_attempts a WHERE a.refund_id = r.id AND a.next_at IS NOT NULL);

-- name: confirmed_orders_were_covered
-- When an order was confirmed, what was held and taken reached its total; or staff confirmed it on terms.
SELECT e.aggregate_id AS order_id, e.seq, e.actor, (e.payload ->> 'total_minor')::bigint AS expected, m.secured AS found
FROM outbox_events e
CROSS JOIN LATERAL (
  SELECT coalesce((e.payload ->> 'authorized_minor')::bigint, 0) + coalesce((e.payload ->> 'captured_minor')::bigint, 0)
         - coalesce((e.payload ->> 'refunded_minor')::bigint, 0) AS secured
) AS m
WHERE e.aggregate = 'order' AND e.type = 'order.confirmed' AND m.secured < (e.payload ->> 'total_minor')::bigint
  AND NOT EXISTS (SELECT FROM users u WHERE e.actor = 'user:' || u.id AND u.role <> 'customer');

-- name: undone_orders_keep_no_money
-- What was taken for an order that is off has been given back or is on its way, and so is what was held; unless staff
-- cancelled it and kept the money.
SELECT o.id AS order_id, o.status, 0 AS expected, p.captured_amount - r.asked AS found, p.id AS payment_id,
       p.status AS payment_status
FROM orders o
JOIN payments p ON p.order_id = o.id
CROSS JOIN LATERAL (
  SELECT coalesce(sum(amount), 0) AS asked FROM refunds f WHERE f.payment_id = p.id AND f.status <> 'failed'
) AS r
WHERE o.status IN ('cancelled', 'expired')
  AND (p.captured_amount > r.asked
       OR p.status = 'authorized' AND NOT EXISTS (
         SELECT FROM payment_attempts a
         WHERE a.payment_id = p.id AND a.operation <> 'refund' AND a.state IN ('due', 'running', 'unknown')))
  AND NOT EXISTS (
    SELECT FROM outbox_events e
    WHERE e.aggregate = 'order' AND e.aggregate_id = o.id AND e.type = 'order.cancelled'
      AND e.payload -> 'about' ->> 'refund' = 'false');

-- name: money_is_told_once
-- Each capture and each refund that succeeded has its event, once; and what events tell of is there.
SELECT order_id, payment_id, refund_id, type, sum(expected) AS expected, sum(found) AS found
FROM (
  SELECT order_id, id AS payment_id, NULL::bigint AS refund_id, 'payment.captured' AS type, 1 AS expected, 0 AS found
  FROM payments WHERE status = 'captured'
  UNION ALL
  SELECT order_id, payment_id, id, 'refund.succeeded', 1, 0 FROM refunds WHERE status = 'succeeded'
  UNION ALL
  SELECT aggregate_id, (payload -> 'about' ->> 'payment_id')::bigint,
         CASE type WHEN 'refund.succeeded' THEN (payload -> 'about' ->> 'refund_id')::bigint END, type, 0, 1
  FROM outbox_events WHERE aggregate = 'order' AND type IN ('payment.captured', 'refund.succeeded')
) AS both_sides
GROUP BY order_id, payment_id, refund_id, type
HAVING sum(expected) <> sum(found);
