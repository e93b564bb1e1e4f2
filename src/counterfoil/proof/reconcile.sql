-- What must hold on the whole database, one statement for each identity: every row that comes back is a difference,
-- with the ids that cause it, what was expected and what was found. All of them read the same snapshot.

-- name: count_rows
-- How many rows there are to hold against each other.
SELECT (SELECT count(*) FROM orders) AS orders, (SELECT count(*) FROM order_items) AS order_items,
       (SELECT count(*) FROM stock_levels) AS stock_levels, (SELECT count(*) FROM stock_movements) AS stock_movements,
       (SELECT count(*) FROM outbox_events WHERE aggregate = 'order') AS order_events,
       (SELECT count(*) FROM idempotency_keys) AS idempotency_keys,
       (SELECT count(*) FROM adjustments) AS adjustments, (SELECT count(*) FROM coupons) AS coupons,
       (SELECT count(*) FROM coupon_uses) AS coupon_uses,
       (SELECT count(*) FROM fulfillments) AS fulfillments, (SELECT count(*) FROM returns) AS returns,
       (SELECT count(*) FROM payments) AS payments, (SELECT count(*) FROM ledger_entries) AS ledger_entries;

-- name: stock_levels_equal_movements
SELECT product_id, c.counter, c.expected, c.found
FROM stock_levels s
FULL JOIN (
  SELECT product_id, sum(on_hand_delta) AS on_hand, sum(reserved_delta) AS reserved, sum(allocated_delta) AS allocated
  FROM stock_movements GROUP BY product_id
) AS m USING (product_id)
CROSS JOIN LATERAL (VALUES
  ('on_hand', coalesce(m.on_hand, 0), s.on_hand),
  ('reserved', coalesce(m.reserved, 0), s.reserved),
  ('allocated', coalesce(m.allocated, 0), s.allocated)
) AS c (counter, expected, found)
WHERE c.found IS DISTINCT FROM c.expected;

-- name: available_is_not_negative
SELECT product_id, on_hand, reserved, allocated, on_hand - reserved - allocated AS found
FROM stock_levels
WHERE NOT allow_backorder AND on_hand - reserved - allocated < 0;

-- name: promised_stock_equals_orders
-- A placed order holds its stock until it is paid, cancelled or swept, also when its deadline has passed.
SELECT product_id, c.counter, c.expected, c.found
FROM stock_levels s
FULL JOIN (
  SELECT i.product_id, sum(i.quantity) FILTER (WHERE o.status = 'created') AS reserved,
         sum(i.quantity - i.shipped) FILTER (WHERE o.status = 'confirmed') AS allocated
  FROM orders o JOIN order_items i ON i.order_id = o.id
  WHERE o.status IN ('created', 'confirmed')
  GROUP BY i.product_id
) AS p USING (product_id)
CROSS JOIN LATERAL (VALUES
  ('reserved', coalesce(p.reserved, 0), s.reserved), ('allocated', coalesce(p.allocated, 0), s.allocated)
) AS c (counter, expected, found)
WHERE c.found IS DISTINCT FROM c.expected;

-- name: order_movements_equal_lines
-- What an order took and gave back leaves exactly what it still holds, product by product.
SELECT order_id, product_id, sum(expected_reserved) AS expected_reserved, sum(reserved) AS found_reserved,
       sum(expected_allocated) AS expected_allocated, sum(allocated) AS found_allocated
FROM (
  SELECT i.order_id, i.product_id, CASE o.status WHEN 'created' THEN i.quantity ELSE 0 END AS expected_reserved,
         CASE o.status WHEN 'confirmed' THEN i.quantity - i.shipped ELSE 0 END AS expected_allocated, 0 AS reserved, 0 AS allocated
  FROM order_items i JOIN orders o ON o.id = i.order_id
  UNION ALL
  SELECT order_id, product_id, 0, 0, reserved_delta, allocated_delta FROM stock_movements WHERE order_id IS NOT NULL
) AS both_sides
GROUP BY order_id, product_id
HAVING sum(expected_reserved) <> sum(reserved) OR sum(expected_allocated) <> sum(allocated);

-- name: orders_have_lines
SELECT o.id AS order_id, o.status FROM orders o
WHERE NOT EXISTS (SELECT FROM order_items i WHERE i.order_id = o.id);

-- name: order_total_equals_lines
SELECT o.id AS order_id, coalesce(i.amount, 0) + coalesce(a.amount, 0) AS expected, o.total_amount AS found
FROM orders o
LEFT JOIN (
  SELECT order_id, sum(quantity * unit_price) AS amount FROM order_items GROUP BY order_id
) AS i ON i.order_id = o.id
LEFT JOIN (SELECT order_id, sum(amount) AS amount FROM adjustments GROUP BY order_id) AS a ON a.order_id = o.id
WHERE o.total_amount <> coalesce(i.amount, 0) + coalesce(a.amount, 0);

-- name: amounts_fit_currency
SELECT order_id, column_name, row_id, currency, amount AS found
FROM (
  SELECT id AS order_id, 'total_amount' AS column_name, id AS row_id, currency, total_amount AS amount FROM orders
  UNION ALL
  SELECT i.order_id, c.column_name, i.id, o.currency, c.amount
  FROM order_items i JOIN orders o ON o.id = i.order_id
  CROSS JOIN LATERAL (VALUES ('unit_price', i.unit_price), ('tax_amount', i.tax_amount),
                             ('discount_amount', i.discount_amount)) AS c (column_name, amount)
  UNION ALL
  SELECT a.order_id, c.column_name, a.id, o.currency, c.amount
  FROM adjustments a JOIN orders o ON o.id = a.order_id
  CROSS JOIN LATERAL (VALUES ('amount', a.amount), ('tax_amount', a.tax_amount)) AS c (column_name, amount)
) AS amounts
WHERE amount * minor_units_v1(currency) <> trunc(amount * minor_units_v1(currency));

-- name: discounts_equal_line_shares
-- What the coupons take off an order is divided among its lines without a rest.
SELECT order_id, sum(expected) AS expected, sum(found) AS found
FROM (
  SELECT order_id, -amount AS expected, 0 AS found FROM adjustments WHERE kind = 'discount'
  UNION ALL
  SELECT order_id, 0, discount_amount FROM order_items WHERE discount_amount <> 0
) AS both_sides
GROUP BY order_id
HAVING sum(expected) <> sum(found);

-- name: added_tax_equals_parts
-- Where prices do not contain their tax, it is added: one adjustment, the sum of the tax of lines and shipping.
SELECT order_id, sum(expected) AS expected, sum(found) AS found
FROM (
  SELECT i.order_id, i.tax_amount AS expected, 0 AS found FROM order_items i JOIN orders o ON o.id = i.order_id
  WHERE NOT o.tax_included
  UNION ALL
  SELECT a.order_id, CASE WHEN o.tax_included THEN 0 ELSE a.tax_amount END, CASE a.kind WHEN 'tax' THEN a.amount ELSE 0 END
  FROM adjustments a JOIN orders o ON o.id = a.order_id
) AS both_sides
GROUP BY order_id
HAVING sum(expected) <> sum(found);

-- name: coupons_count_their_uses
SELECT c.id AS coupon_id, coalesce(u.uses, 0) AS expected, c.used AS found
FROM coupons c
LEFT JOIN (
  SELECT coupon_id, count(*) AS uses FROM coupon_uses WHERE released_at IS NULL GROUP BY coupon_id
) AS u ON u.coupon_id = c.id
WHERE c.used <> coalesce(u.uses, 0);

-- name: uses_equal_discounts
-- A placed order that is not at an end without a sale uses the coupons that it was priced with, and no other order does.
SELECT order_id, code, sum(expected) AS expected, sum(found) AS found
FROM (
  SELECT a.order_id, a.label AS code, 1 AS expected, 0 AS found
  FROM adjustments a JOIN orders o ON o.id = a.order_id
  WHERE a.kind = 'discount' AND o.status IN ('created', 'confirmed', 'completed')
  UNION ALL
  SELECT u.order_id, c.code, 0, 1 FROM coupon_uses u JOIN coupons c ON c.id = u.coupon_id WHERE u.released_at IS NULL
) AS both_sides
GROUP BY order_id, code
HAVING sum(expected) <> sum(found);

-- name: placed_orders_have_one_created_event
SELECT o.id AS order_id, (o.placed_at IS NOT NULL)::integer AS expected, coalesce(e.created, 0) AS found
FROM orders o
LEFT JOIN (
  SELECT aggregate_id, count(*) AS created FROM outbox_events
  WHERE aggregate = 'order' AND type = 'order.created' GROUP BY aggregate_id
) AS e ON e.aggregate_id = o.id
WHERE coalesce(e.created, 0) <> (o.placed_at IS NOT NULL)::integer;

-- name: events_have_their_order
SELECT e.aggregate_id AS order_id, e.seq, e.type, e.event_id FROM outbox_events e
WHERE e.aggregate = 'order' AND NOT EXISTS (SELECT FROM orders o WHERE o.id = e.aggregate_id);

-- name: event_numbers_have_no_gap
SELECT order_id, event_id, expected, found
FROM (
  SELECT aggregate_id AS order_id, event_id, seq AS found,
         row_number() OVER (PARTITION BY aggregate_id ORDER BY seq) AS expected
  FROM outbox_events WHERE aggregate = 'order'
) AS numbered
WHERE found <> expected;

-- name: version_is_last_event_number
SELECT o.id AS order_id, o.version AS expected, e.last AS found
FROM orders o
LEFT JOIN (
  SELECT aggregate_id, max(seq) AS last FROM outbox_events WHERE aggregate = 'order' GROUP BY aggregate_id
) AS e ON e.aggregate_id = o.id
WHERE e.last IS DISTINCT FROM o.version;

-- name: events_follow_transitions
-- The status before an event is that of the last event before it which changed the status. Every status has a number,
-- so that one running maximum carries the number and the status along.
WITH after AS (
  SELECT type, status FROM unnest(%(event_types)s::text[], %(event_statuses)s::integer[]) AS t (type, status)
), steps AS (
  SELECT before, type FROM unnest(%(step_befores)s::integer[], %(step_types)s::text[]) AS t (before, type)
)
SELECT order_id, seq, (%(status_names)s::text[])[before] AS status_before, w.type AS found
FROM (
  SELECT e.aggregate_id AS order_id, e.seq, e.type, mod(coalesce(max(e.seq::bigint * 100 + a.status) OVER (
           PARTITION BY e.aggregate_id ORDER BY e.seq ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0), 100) AS before
  FROM outbox_events e LEFT JOIN after a ON a.type = e.type
  WHERE e.aggregate = 'order'
) AS w
WHERE NOT EXISTS (SELECT FROM steps s WHERE s.before = w.before AND s.type = w.type);

-- name: status_agrees_with_events
WITH after AS (
  SELECT type, status FROM unnest(%(event_types)s::text[], %(event_statuses)s::integer[]) AS t (type, status)
)
SELECT o.id AS order_id, (%(status_names)s::text[])[e.status] AS expected, o.status AS found
FROM orders o
JOIN (
  SELECT e.aggregate_id, mod(max(e.seq::bigint * 100 + a.status), 100) AS status
  FROM outbox_events e JOIN after a ON a.type = e.type
  WHERE e.aggregate = 'order' GROUP BY e.aggregate_id
) AS e ON e.aggregate_id = o.id
WHERE (%(status_names)s::text[])[e.status] <> o.status;

-- name: last_event_tells_the_order
SELECT o.order_id, o.seq, c.field, c.expected, c.found
FROM (
  SELECT o.id AS order_id, e.seq,
         ARRAY[o.id::text, o.user_id::text, o.currency, (o.total_amount * minor_units_v1(o.currency))::bigint::text,
               o.client_reference, e.seq::text, o.tax_included::text] AS expected,
         ARRAY[e.payload ->> 'order_id', e.payload ->> 'user_id', e.payload ->> 'currency', e.payload ->> 'total_minor',
               e.payload ->> 'client_reference', e.payload ->> 'version',
               coalesce(e.payload ->> 'tax_included', 'true')] AS found
  FROM orders o
  JOIN outbox_events e ON e.aggregate = 'order' AND e.aggregate_id = o.id AND e.seq = o.version
) AS o
CROSS JOIN LATERAL unnest(
  ARRAY['order_id', 'user_id', 'currency', 'total_minor', 'client_reference', 'version', 'tax_included'],
  o.expected, o.found
) AS c (field, expected, found)
WHERE o.expected <> o.found AND c.found IS DISTINCT FROM c.expected;

-- name: last_event_tells_the_lines
-- Lines are compared as text, with ASCII's own separators: building JSON out of every line takes six times as long.
WITH told AS (
  SELECT o.id AS order_id, e.seq, (
           SELECT string_agg(concat_ws(E'\x1f', t.line ->> 'product_id', t.line ->> 'quantity',
                                       t.line ->> 'unit_price_minor', t.line ->> 'sku', t.line ->> 'name',
                                       nullif(concat_ws(' ', nullif(t.line ->> 'tax_rate_ppm', '0'),
                                                        nullif(t.line ->> 'tax_minor', '0'),
                                                        nullif(t.line ->> 'discount_minor', '0')), '')),
                             E'\x1e' ORDER BY t.n)
           FROM jsonb_array_elements(CASE jsonb_typeof(e.payload -> 'items') WHEN 'array' THEN e.payload -> 'items'
                                     ELSE '[]' END) WITH ORDINALITY AS t (line, n)) AS lines
  FROM orders o
  JOIN outbox_events e ON e.aggregate = 'order' AND e.aggregate_id = o.id AND e.seq = o.version
), stored AS (
  SELECT i.order_id, string_agg(concat_ws(E'\x1f', i.product_id, i.quantity,
                                          (i.unit_price * minor_units_v1(o.currency))::bigint, i.sku, i.name,
                                          nullif(concat_ws(' ', nullif(trunc(i.tax_rate * 10000), 0),
                                            nullif((i.tax_amount * minor_units_v1(o.currency))::bigint, 0),
                                            nullif((i.discount_amount * minor_units_v1(o.currency))::bigint, 0)), '')),
                                E'\x1e' ORDER BY i.line_no) AS lines
  FROM order_items i JOIN orders o ON o.id = i.order_id
  GROUP BY i.order_id
)
SELECT order_id, seq, translate(s.lines, E'\x1e\x1f', '; ') AS expected, translate(t.lines, E'\x1e\x1f', '; ') AS found
FROM told t LEFT JOIN stored s USING (order_id)
WHERE t.lines IS DISTINCT FROM s.lines;

-- name: last_event_tells_the_adjustments
-- Only orders that have adjustments, in their rows or in the event: most have none in either.
SELECT o.id AS order_id, e.seq, stored.text AS expected, told.text AS found
FROM orders o
JOIN outbox_events e ON e.aggregate = 'order' AND e.aggregate_id = o.id AND e.seq = o.version
LEFT JOIN (
  SELECT a.order_id, string_agg(concat_ws(' ', a.kind, a.label, (a.amount * minor_units_v1(o.currency))::bigint,
                                          trunc(a.tax_rate * 10000), (a.tax_amount * minor_units_v1(o.currency))::bigint),
                                '; ' ORDER BY a.id) AS text
  FROM adjustments a JOIN orders o ON o.id = a.order_id
  GROUP BY a.order_id
) AS stored ON stored.order_id = o.id
CROSS JOIN LATERAL (
  SELECT string_agg(concat_ws(' ', t.told ->> 'kind', t.told ->> 'label', t.told ->> 'amount_minor',
                              coalesce(t.told ->> 'tax_rate_ppm', '0'), coalesce(t.told ->> 'tax_minor', '0')),
                    '; ' ORDER BY t.n) AS text
  FROM jsonb_array_elements(CASE jsonb_typeof(e.payload -> 'adjustments') WHEN 'array' THEN e.payload -> 'adjustments'
                            ELSE '[]' END) WITH ORDINALITY AS t (told, n)
) AS told
WHERE stored.text IS DISTINCT FROM told.text;

-- name: keys_point_to_their_order
-- The order that a key stands for exists and was placed by the key's own principal.
SELECT k.principal, k.key, k.resource_id AS order_id, k.principal AS expected, e.actor AS found
FROM idempotency_keys k
LEFT JOIN outbox_events e ON e.aggregate = 'order' AND e.aggregate_id = k.resource_id AND e.type = 'order.created'
WHERE k.resource_id IS NOT NULL
  AND (e.actor IS DISTINCT FROM k.principal OR NOT EXISTS (SELECT FROM orders o WHERE o.id = k.resource_id));

-- name: orders_have_one_key
SELECT resource_id AS order_id, 1 AS expected, count(*) AS found, (array_agg(principal || ' ' || key))[1:3] AS keys
FROM idempotency_keys
WHERE resource_id IS NOT NULL
GROUP BY resource_id
HAVING count(*) > 1;

-- name: created_events_are_what_was_audited
-- The entry of a placed order holds the SHA-256 of its order.created event. An entry without one is the release before's,
-- one with a row before it is a draft's that was placed, whose hashes are of the row; what has no entry is told by the
-- check after this one.
SELECT e.aggregate_id AS order_id, encode(a.after_hash, 'hex') AS expected,
       encode(sha256(convert_to(e.payload::text, 'UTF8')), 'hex') AS found
FROM outbox_events e
JOIN audit_entries a ON a.target = 'order' AND a.target_id = e.aggregate_id AND a.action = 'order.place'
  AND a.request_id = e.cause
WHERE e.aggregate = 'order' AND e.type = 'order.created' AND a.before_hash IS NULL
  AND a.after_hash <> sha256(convert_to(e.payload::text, 'UTF8'));

-- name: every_event_has_its_audit_entry
-- As many entries as events for each order, actor and request, in both directions. Rows of orders that somebody changed
-- in the database itself (db:login) have an entry and no event: what they broke is told by the other checks. Looking at
-- an order is an entry without an event, too.
SELECT order_id, actor, request_id, sum(events) AS expected, sum(entries) AS found
FROM (
  SELECT aggregate_id AS order_id, actor, cause AS request_id, 1 AS events, 0 AS entries
  FROM outbox_events WHERE aggregate = 'order'
  UNION ALL
  SELECT target_id, actor, request_id, 0, 1 FROM audit_entries
  WHERE target = 'order' AND actor NOT LIKE 'db:%%' AND action NOT LIKE '%%.read'
) AS both_sides
GROUP BY order_id, actor, request_id
HAVING sum(events) <> sum(entries);
