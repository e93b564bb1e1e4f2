-- name: place_orders
-- One batch; the decision and the writes are in place_orders_v3 (migrations/sql/place_orders_v3.sql).
SELECT n, outcome, order_id, facts FROM place_orders_v3(
  %(users)s::bigint[], %(actors)s::text[], %(keys)s::text[], %(fingerprints)s::bytea[], %(requests)s::text[],
  %(references)s::text[], %(events)s::uuid[], %(line_orders)s::integer[], %(line_products)s::bigint[],
  %(line_quantities)s::integer[], %(hold_seconds)s::integer, %(key_hours)s::integer, %(total_max)s::numeric,
  %(open_orders_max)s::integer, %(open_units_max)s::integer, %(coupon_orders)s::integer[],
  %(coupon_codes)s::text[], %(tax_included)s::boolean, %(ship_currencies)s::text[], %(ship_fees)s::numeric[],
  %(ship_free_from)s::numeric[], %(ship_rate)s::numeric);

-- name: read_orders
-- Orders with their lines as JSON, amounts in minor units. A reservation that has run out reads as expired, whether
-- the job has been there or not, unless a payment is under way: that keeps it. {where} and {tail} are filled with fixed
-- fragments by the repository.
SELECT o.id, o.user_id, o.currency, (o.total_amount * minor_units_v1(o.currency))::bigint, o.client_reference,
       o.version, o.created_at, o.reserved_until,
       CASE WHEN o.status = 'created' AND o.reserved_until <= now() AND NOT o.payment_in_flight THEN 'expired'
            ELSE o.status END,
       o.payment_status, o.fulfillment_status, o.return_status, o.placed_at, o.updated_at,
       (SELECT json_agg(json_build_object(
                 'product_id', i.product_id, 'sku', i.sku, 'name', i.name, 'quantity', i.quantity,
                 'unit_price_minor', (i.unit_price * minor_units_v1(o.currency))::bigint,
                 'shipped', i.shipped, 'returned', i.returned, 'tax_rate_ppm', trunc(i.tax_rate * 10000),
                 'tax_minor', (i.tax_amount * minor_units_v1(o.currency))::bigint,
                 'discount_minor', (i.discount_amount * minor_units_v1(o.currency))::bigint) ORDER BY i.line_no)::text
        FROM order_items i WHERE i.order_id = o.id),
       o.payment_unknown, (o.authorized_amount * minor_units_v1(o.currency))::bigint,
       (o.captured_amount * minor_units_v1(o.currency))::bigint, (o.refunded_amount * minor_units_v1(o.currency))::bigint,
       o.payment_in_flight, o.is_held, o.has_open_return, coalesce(o.cancel_until > now(), true),
       coalesce(o.return_until > now(), true),
       (SELECT json_agg(json_build_object(
                 'kind', a.kind, 'label', a.label, 'amount_minor', (a.amount * minor_units_v1(o.currency))::bigint,
                 'tax_rate_ppm', trunc(a.tax_rate * 10000),
                 'tax_minor', (a.tax_amount * minor_units_v1(o.currency))::bigint) ORDER BY a.id)::text
        FROM adjustments a WHERE a.order_id = o.id), o.tax_included
FROM orders o
WHERE {where}
{tail};

-- name: read_timeline
-- Every event of one order, oldest first, if the order may be seen by this owner (NULL: anybody's).
SELECT e.seq, e.type, e.occurred_at, e.actor, e.cause, e.payload::text
FROM outbox_events e JOIN orders o ON o.id = e.aggregate_id
WHERE e.aggregate = 'order' AND e.aggregate_id = %(order_id)s
  AND (%(owner)s::bigint IS NULL OR o.user_id = %(owner)s)
ORDER BY e.seq;

-- name: read_timelines
-- Every event of these orders, each order's oldest first.
SELECT e.aggregate_id, e.seq, e.type, e.occurred_at, e.actor, e.cause, e.payload::text
FROM outbox_events e WHERE e.aggregate = 'order' AND e.aggregate_id = ANY (%(order_ids)s)
ORDER BY e.aggregate_id, e.seq;

-- name: lock_order
-- Only the lock: the order is read by the next statement, whose snapshot is younger than the wait for it.
SELECT id FROM orders
WHERE id = %(order_id)s AND (%(owner)s::bigint IS NULL OR user_id = %(owner)s)
FOR NO KEY UPDATE;

-- name: lock_holds
-- The same lock as in place_orders_v3: who decides on this customer's holds.
SELECT pg_advisory_xact_lock(x'6366686f'::integer, mod(%(user_id)s::bigint, 2147483647)::integer);

-- name: read_open_holds
-- What a customer has open beside one order: orders, units (0 when nobody asks for them), seconds until the first ends.
-- No cap is larger than 10,000, and every order holds a unit or more: counting further would change no decision.
SELECT count(h.reserved_until)::integer, coalesce(sum(h.units), 0)::bigint,
       coalesce(ceil(extract(epoch FROM min(h.reserved_until) - now())), 0)::integer
FROM users u LEFT JOIN LATERAL (
  SELECT o.reserved_until, CASE WHEN %(with_units)s::boolean THEN (
           SELECT sum(i.quantity) FROM order_items i WHERE i.order_id = o.id) END AS units
  FROM orders o
  WHERE o.user_id = u.id AND o.status = 'created' AND o.reserved_until > now() AND o.id <> %(apart_from)s
  ORDER BY o.reserved_until LIMIT 10000
) AS h ON true
WHERE u.id = %(user_id)s AND u.role = 'customer'
GROUP BY u.id;

-- name: insert_draft
INSERT INTO orders (user_id, total_amount, currency, status, client_reference, tax_included, created_at, updated_at)
VALUES (%(user_id)s, %(total)s, %(currency)s, 'draft', %(client_reference)s, %(tax_included)s, now(), now())
RETURNING id;

-- name: delete_items
DELETE FROM order_items WHERE order_id = %(order_id)s;

-- name: insert_items
INSERT INTO order_items (order_id, product_id, line_no, sku, name, quantity, unit_price, tax_rate, tax_amount,
                         discount_amount)
SELECT %(order_id)s, l.product_id, l.line_no, l.sku, l.name, l.quantity, l.unit_price, l.tax_rate, l.tax, l.discount
FROM unnest(%(products)s::bigint[], %(skus)s::text[], %(names)s::text[], %(quantities)s::integer[],
            %(prices)s::numeric[], %(tax_rates)s::numeric[], %(taxes)s::numeric[], %(discounts)s::numeric[])
     WITH ORDINALITY AS l (product_id, sku, name, quantity, unit_price, tax_rate, tax, discount, line_no);

-- name: delete_adjustments
DELETE FROM adjustments WHERE order_id = %(order_id)s;

-- name: insert_adjustments
-- In their order: they are read by id.
INSERT INTO adjustments (order_id, kind, label, amount, tax_rate, tax_amount)
SELECT %(order_id)s, a.kind, a.label, a.amount, a.tax_rate, a.tax
FROM unnest(%(kinds)s::text[], %(labels)s::text[], %(amounts)s::numeric[], %(tax_rates)s::numeric[],
            %(taxes)s::numeric[]) WITH ORDINALITY AS a (kind, label, amount, tax_rate, tax, place)
ORDER BY a.place;

-- name: update_order
-- The caller holds the row's lock, so the version it read is the version that is replaced.
UPDATE orders
SET status = %(status)s, total_amount = %(total)s, currency = %(currency)s, client_reference = %(client_reference)s,
    version = version + 1, updated_at = now(), tax_included = coalesce(%(tax_included)s::boolean, tax_included),
    placed_at = CASE WHEN %(status)s = 'created' THEN coalesce(placed_at, now()) ELSE placed_at END,
    reserved_until = CASE WHEN %(status)s = 'created'
                          THEN coalesce(reserved_until, now() + make_interval(secs => %(hold_seconds)s))
                          ELSE reserved_until END
WHERE id = %(order_id)s;

-- name: lock_expired
-- Reservations that have run out, by the database's clock; those that somebody works on are left for the next round,
-- and those with a payment under way until it is known.
SELECT id FROM orders
WHERE status = 'created' AND reserved_until <= now() AND NOT payment_in_flight
ORDER BY reserved_until
LIMIT %(limit)s
FOR NO KEY UPDATE SKIP LOCKED;

-- name: write_status
-- A new status of an order whose row the caller holds. What is reinstated gets a new deadline; confirming opens the time
-- for cancelling.
UPDATE orders
SET status = %(status)s, version = version + 1, updated_at = now(),
    reserved_until = CASE WHEN %(status)s = 'created' THEN now() + make_interval(secs => %(hold_seconds)s)
                          ELSE reserved_until END,
    cancel_until = CASE WHEN %(status)s = 'confirmed' THEN now() + make_interval(secs => %(cancel_seconds)s)
                        ELSE cancel_until END
WHERE id = %(order_id)s;

-- name: write_money
-- What follows from an order's payments.
UPDATE orders
SET payment_status = %(payment_status)s, payment_in_flight = %(payment_in_flight)s,
    payment_unknown = %(payment_unknown)s, authorized_amount = %(authorized)s, captured_amount = %(captured)s,
    refunded_amount = %(refunded)s, version = version + 1, updated_at = now()
WHERE id = %(order_id)s;

-- name: mark_expired
UPDATE orders SET status = 'expired', version = version + 1, updated_at = now()
WHERE id = ANY (%(order_ids)s);

-- name: read_stored_status
-- As it is written, not as it reads: a reservation that has run out is held until the job has been there.
SELECT status FROM orders WHERE id = %(order_id)s;

-- name: may_see
SELECT 1 FROM orders WHERE id = %(order_id)s AND (%(owner)s::bigint IS NULL OR user_id = %(owner)s);
