-- name: insert_users
-- The bench's customers, and one administrator at the end. They have no address and no name: nothing to seal.
INSERT INTO users (password, role)
SELECT '!',
       CASE WHEN n > %(customers)s::integer THEN 'admin' ELSE 'customer' END
FROM generate_series(1, %(customers)s::integer + 1) AS n
RETURNING id

-- name: insert_products
INSERT INTO products (sku, name, description, category, price, currency)
SELECT 'BENCH-' || n, 'Bench product ' || n, '', 'bench', (199 + n %% 5000) / 100.0, 'EUR'
FROM generate_series(1, %(products)s::integer) AS n
RETURNING id

-- name: insert_scarce_product
INSERT INTO products (sku, name, description, category, price, currency)
VALUES ('BENCH-SCARCE', 'Bench product, last units', '', 'bench', 9.99, 'EUR')
RETURNING id

-- name: insert_stock
INSERT INTO stock_levels (product_id, on_hand) SELECT id, %(units)s FROM products WHERE id = ANY (%(products)s)

-- name: insert_receipts
INSERT INTO stock_movements (product_id, kind, on_hand_delta, actor, reason)
SELECT id, 'receipt', %(units)s, 'bench', 'stock of the bench' FROM products WHERE id = ANY (%(products)s)

-- name: count_violations
-- What must be 0, one row each. The orders of the service are told from those of pgbench by the cause of their event.
SELECT 'oversold products' AS rule, count(*) FROM stock_levels
WHERE NOT allow_backorder AND on_hand - reserved - allocated < 0
UNION ALL
SELECT 'products whose counters differ from the sum of their movements', count(*)
FROM stock_levels s
LEFT JOIN (
  SELECT product_id, sum(on_hand_delta) AS on_hand, sum(reserved_delta) AS reserved, sum(allocated_delta) AS allocated
  FROM stock_movements GROUP BY product_id
) m USING (product_id)
WHERE (s.on_hand, s.reserved, s.allocated)
  IS DISTINCT FROM (coalesce(m.on_hand, 0), coalesce(m.reserved, 0), coalesce(m.allocated, 0))
UNION ALL
SELECT 'products whose reserved units differ from the lines of live orders', count(*)
FROM stock_levels s
LEFT JOIN (
  SELECT i.product_id, sum(i.quantity) AS reserved FROM order_items i JOIN orders o ON o.id = i.order_id
  WHERE o.status = 'created' GROUP BY i.product_id
) i USING (product_id)
WHERE s.reserved <> coalesce(i.reserved, 0)
UNION ALL
SELECT 'orders without exactly one order.created', count(*)
FROM orders o
LEFT JOIN (
  SELECT aggregate_id, count(*) AS n FROM outbox_events
  WHERE aggregate = 'order' AND type = 'order.created' GROUP BY aggregate_id
) e ON e.aggregate_id = o.id
WHERE coalesce(e.n, 0) <> 1
UNION ALL
-- One for the order as a whole, and none for its lines: neither side of the comparison writes more than the other.
SELECT 'orders without exactly one audit entry of their placement', count(*)
FROM orders o
LEFT JOIN (
  SELECT target_id, count(*) AS n FROM audit_entries WHERE target = 'order' AND action = 'order.place'
  GROUP BY target_id
) a ON a.target_id = o.id
WHERE coalesce(a.n, 0) <> 1
UNION ALL
SELECT 'audit entries of order lines', count(*) FROM audit_entries WHERE target = 'order_item'
UNION ALL
SELECT 'orders whose total differs from their lines', count(*)
FROM orders o
LEFT JOIN (
  SELECT order_id, sum(quantity * unit_price) AS total FROM order_items GROUP BY order_id
) i ON i.order_id = o.id
WHERE o.total_amount <> coalesce(i.total, -1)
UNION ALL
SELECT 'acknowledged orders that are not stored', count(*)
FROM acknowledged a WHERE NOT EXISTS (SELECT FROM orders o WHERE o.id = a.order_id AND o.user_id = a.user_id)
UNION ALL
SELECT 'orders acknowledged more than once', count(*) - count(DISTINCT order_id) FROM acknowledged
UNION ALL
SELECT 'orders stored by the service that nobody was told of', count(*)
FROM outbox_events e
WHERE e.type = 'order.created' AND e.cause NOT LIKE 'pgbench-%%' AND e.cause <> 'bench-fill'
  AND NOT EXISTS (SELECT FROM acknowledged a WHERE a.order_id = e.aggregate_id)

-- name: count_orders
SELECT count(*) FROM orders

-- name: span_orders
SELECT min(created_at), max(created_at) FROM orders

-- name: fill_orders
-- Orders with all their rows, as if they had been placed one by one during the last 300 days: two lines each, of
-- products that follow from the order's number, so that the same table comes out every time.
WITH picked AS (
  SELECT nextval('orders_id_seq') AS id, n,
         %(first_user)s::bigint + n %% %(users)s::bigint AS user_id,
         %(first_product)s::bigint + (n * 7919) %% (%(products)s::bigint / 2) AS product_1,
         %(first_product)s::bigint + %(products)s::bigint / 2 + (n * 104729) %% (%(products)s::bigint / 2) AS product_2,
         now() - interval '300 days' * ((%(orders)s::bigint - n)::float / %(orders)s::bigint) - interval '1 hour' AS at
  FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n
), line AS (
  SELECT o.id, o.user_id, o.at, l.line_no, p.id AS product_id, p.sku, p.name, p.price, 1 + (o.n + l.line_no) %% 3 AS quantity
  FROM picked o
  CROSS JOIN LATERAL (VALUES (1, o.product_1), (2, o.product_2)) AS l (line_no, product_id)
  JOIN products p ON p.id = l.product_id
), whole AS (
  SELECT id, user_id, at, sum(price * quantity) AS total,
         jsonb_agg(jsonb_build_object('product_id', product_id, 'sku', sku, 'name', name, 'quantity', quantity,
                   'unit_price_minor', (price * 100)::bigint) ORDER BY line_no) AS items
  FROM line GROUP BY id, user_id, at
), placed AS (
  INSERT INTO orders (id, user_id, total_amount, currency, status, version, placed_at, reserved_until, created_at, updated_at)
  SELECT id, user_id, total, 'EUR', 'created', 1, at, now() + interval '30 days', at, at FROM whole ORDER BY id
), items AS (
  INSERT INTO order_items (order_id, product_id, line_no, sku, name, quantity, unit_price, created_at)
  SELECT id, product_id, line_no, sku, name, quantity, price, at FROM line ORDER BY id, line_no
), movements AS (
  INSERT INTO stock_movements (product_id, order_id, kind, reserved_delta, actor, created_at)
  SELECT product_id, id, 'reserve', quantity, 'user:' || user_id, at FROM line ORDER BY id, line_no
), taken AS (
  UPDATE stock_levels s SET reserved = s.reserved + t.quantity
  FROM (SELECT product_id, sum(quantity) AS quantity FROM line GROUP BY product_id) t WHERE s.product_id = t.product_id
), keys AS (
  INSERT INTO idempotency_keys (principal, key, fingerprint, response_status, resource_id, created_at, expires_at)
  SELECT 'user:' || user_id, gen_random_uuid()::text, sha256(id::text::bytea), 201, id, at, now() + interval '30 days'
  FROM whole
), events AS (
  INSERT INTO outbox_events (event_id, aggregate, aggregate_id, seq, type, payload, actor, cause, occurred_at)
  SELECT gen_random_uuid(), 'order', id, 1, 'order.created',
         jsonb_build_object('order_id', id, 'user_id', user_id, 'currency', 'EUR', 'total_minor', (total * 100)::bigint,
                            'client_reference', NULL, 'version', 1, 'created_at', at,
                            'reserved_until', now() + interval '30 days', 'items', items),
         'user:' || user_id, 'bench-fill', at
  FROM whole ORDER BY id
  RETURNING aggregate_id, payload, actor, cause, occurred_at
)
INSERT INTO audit_entries (occurred_at, actor, action, target, target_id, request_id, after_hash)
SELECT occurred_at, actor, 'order.place', 'order', aggregate_id, cause, sha256(convert_to(payload::text, 'UTF8'))
FROM events ORDER BY aggregate_id
