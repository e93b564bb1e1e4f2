-- One order in one transaction and one statement: the strongest way to place orders one at a time that we know.
-- Writes the rows that the service writes for an order (key, order, lines, movements, stock, event, audit entry) under
-- the same constraints, and checks what it checks: user, products, stock of every line. Too little stock raises
-- (division by zero), so nothing of such an order is kept. Stock rows are changed in product order, because the lines
-- come in that order and are joined one by one. Runs as counterfoil_placement, as the service's function does: the
-- triggers that write an entry for every other change are silent for both, and both pay for their presence.
--
-- ${settings}, ${lines} and ${new_event_id} are filled in by counterfoil.proof.bench.pgbench.
${settings}
WITH line (line_no, product_id, quantity) AS (
  VALUES ${lines}
), priced AS (
  SELECT l.line_no, l.product_id, l.quantity, p.sku, p.name, p.price, p.currency
  FROM line l JOIN products p ON p.id = l.product_id AND p.active AND p.deleted_at IS NULL
), taken AS (
  UPDATE stock_levels s SET reserved = s.reserved + l.quantity, updated_at = now()
  FROM line l
  WHERE s.product_id = l.product_id
    AND (s.allow_backorder OR s.on_hand - s.reserved - s.allocated >= l.quantity)
  RETURNING s.product_id
), claimed AS (
  INSERT INTO idempotency_keys (principal, key, fingerprint, response_status, resource_id, expires_at)
  SELECT 'user:' || u.id, gen_random_uuid()::text, '\x3d7a1c0e9b5f28466e1f0c7b2a9d8e5f4c3b2a1908f7e6d5c4b3a29181706f5e',
         201, nextval('orders_id_seq'), now() + interval '72 hours'
  FROM users u WHERE u.id = :user_id AND u.is_active
  ON CONFLICT (principal, key) DO NOTHING
  RETURNING principal, key, resource_id
), placed AS (
  INSERT INTO orders (id, user_id, total_amount, currency, status, version, placed_at, reserved_until, created_at, updated_at)
  SELECT c.resource_id, :user_id::bigint, sum(p.price * p.quantity), min(p.currency), 'created', 1, now(),
         now() + interval '30 minutes', now(), now()
  FROM claimed c CROSS JOIN priced p
  GROUP BY c.resource_id
  HAVING 1 / (count(*) = (SELECT count(*) FROM line) AND count(*) = (SELECT count(*) FROM taken))::integer = 1
  RETURNING id, user_id, total_amount, currency, created_at, reserved_until
), items AS (
  INSERT INTO order_items (order_id, product_id, line_no, sku, name, quantity, unit_price, created_at)
  SELECT o.id, p.product_id, p.line_no, p.sku, p.name, p.quantity, p.price, o.created_at FROM placed o CROSS JOIN priced p
), movements AS (
  INSERT INTO stock_movements (product_id, order_id, kind, reserved_delta, actor, created_at)
  SELECT l.product_id, o.id, 'reserve', l.quantity, 'user:' || o.user_id, o.created_at FROM placed o CROSS JOIN line l
), event AS (
  INSERT INTO outbox_events (event_id, aggregate, aggregate_id, seq, type, payload, actor, cause, occurred_at)
  SELECT ${new_event_id}(), 'order', o.id, 1, 'order.created',
         jsonb_build_object(
           'order_id', o.id, 'user_id', o.user_id, 'currency', o.currency,
           'total_minor', (o.total_amount * 100)::bigint, 'client_reference', NULL, 'version', 1,
           'created_at', o.created_at, 'reserved_until', o.reserved_until,
           'items', (
             SELECT jsonb_agg(jsonb_build_object(
               'product_id', p.product_id, 'sku', p.sku, 'name', p.name, 'quantity', p.quantity,
               'unit_price_minor', (p.price * 100)::bigint) ORDER BY p.line_no)
             FROM priced p)),
         c.principal, 'pgbench-' || c.key, o.created_at
  FROM placed o CROSS JOIN claimed c
  RETURNING aggregate_id, payload, actor, cause, occurred_at
), audit AS (
  INSERT INTO audit_entries (occurred_at, actor, action, target, target_id, request_id, after_hash)
  SELECT occurred_at, actor, 'order.place', 'order', aggregate_id, cause, sha256(convert_to(payload::text, 'UTF8')) FROM event
)
SELECT payload FROM event;
