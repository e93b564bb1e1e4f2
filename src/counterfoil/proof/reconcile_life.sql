-- What must hold between orders and what belongs to them after they were placed: fulfillments, returns, holds.

-- name: shipped_units_have_left
-- What a line says has left the house is in fulfillments that did, and was taken out of the stock.
SELECT i.order_id, i.product_id, coalesce(f.units, 0) AS expected, i.shipped AS found, coalesce(m.units, 0) AS dispatched
FROM order_items i
LEFT JOIN (
  SELECT l.order_item_id, sum(l.quantity) AS units
  FROM fulfillment_lines l JOIN fulfillments f ON f.id = l.fulfillment_id
  WHERE f.status IN ('shipped', 'delivered') GROUP BY l.order_item_id
) AS f ON f.order_item_id = i.id
LEFT JOIN (
  SELECT order_id, product_id, -sum(on_hand_delta) AS units FROM stock_movements
  WHERE kind = 'dispatch' GROUP BY order_id, product_id
) AS m ON m.order_id = i.order_id AND m.product_id = i.product_id
WHERE i.shipped <> coalesce(f.units, 0) OR i.shipped <> coalesce(m.units, 0);

-- name: returned_units_came_back
-- What a line says came back was received in returns; what of it is sold again was put into the stock.
SELECT i.order_id, i.product_id, coalesce(r.received, 0) AS expected, i.returned AS found,
       coalesce(r.restocked, 0) AS restocked, coalesce(m.units, 0) AS put_back
FROM order_items i
LEFT JOIN (
  SELECT order_item_id, sum(restocked + damaged) AS received, sum(restocked) AS restocked
  FROM return_lines GROUP BY order_item_id
) AS r ON r.order_item_id = i.id
LEFT JOIN (
  SELECT order_id, product_id, sum(on_hand_delta) AS units FROM stock_movements
  WHERE kind = 'return' GROUP BY order_id, product_id
) AS m ON m.order_id = i.order_id AND m.product_id = i.product_id
WHERE i.returned <> coalesce(r.received, 0) OR coalesce(r.restocked, 0) <> coalesce(m.units, 0);

-- name: fulfillments_fit_lines
-- No unit is in two fulfillments, and none in one of another order.
SELECT i.order_id, i.product_id, i.quantity AS expected, sum(l.quantity) AS found,
       count(*) FILTER (WHERE f.order_id <> i.order_id) AS of_other_orders
FROM fulfillment_lines l
JOIN fulfillments f ON f.id = l.fulfillment_id
JOIN order_items i ON i.id = l.order_item_id
WHERE f.status <> 'cancelled'
GROUP BY i.id
HAVING sum(l.quantity) > i.quantity OR bool_or(f.order_id <> i.order_id);

-- name: returns_fit_shipments
-- No unit is in two returns, and none that was not shipped. A closed return counts with what came.
SELECT i.order_id, i.product_id, i.shipped AS expected,
       sum(CASE r.status WHEN 'closed' THEN l.restocked + l.damaged ELSE l.quantity END) AS found,
       count(*) FILTER (WHERE r.order_id <> i.order_id) AS of_other_orders
FROM return_lines l
JOIN returns r ON r.id = l.return_id
JOIN order_items i ON i.id = l.order_item_id
WHERE r.status <> 'declined'
GROUP BY i.id
HAVING sum(CASE r.status WHEN 'closed' THEN l.restocked + l.damaged ELSE l.quantity END) > i.shipped
    OR bool_or(r.order_id <> i.order_id);

-- name: axes_follow_children
-- What an order says of its fulfilment, its returns and its holds is what they say themselves.
SELECT o.id AS order_id, c.field, c.expected, c.found
FROM orders o
LEFT JOIN (
  SELECT order_id, sum(quantity) AS ordered, sum(shipped) AS shipped, sum(returned) AS returned
  FROM order_items GROUP BY order_id
) AS i ON i.order_id = o.id
LEFT JOIN (
  SELECT f.order_id, sum(l.quantity) AS delivered
  FROM fulfillments f JOIN fulfillment_lines l ON l.fulfillment_id = f.id
  WHERE f.status = 'delivered' GROUP BY f.order_id
) AS f ON f.order_id = o.id
LEFT JOIN (
  SELECT order_id, bool_or(status IN ('requested', 'approved', 'received')) AS open FROM returns GROUP BY order_id
) AS r ON r.order_id = o.id
LEFT JOIN (
  SELECT order_id, bool_or(released_at IS NULL) AS open FROM holds GROUP BY order_id
) AS h ON h.order_id = o.id
CROSS JOIN LATERAL (VALUES
  ('fulfillment_status', o.fulfillment_status,
   CASE WHEN coalesce(i.shipped, 0) = 0 THEN 'unfulfilled' WHEN i.shipped < i.ordered THEN 'partially_fulfilled'
        WHEN f.delivered >= i.ordered THEN 'delivered' ELSE 'fulfilled' END),
  ('return_status', o.return_status,
   CASE WHEN i.returned > 0 AND i.returned >= i.shipped THEN 'returned' WHEN i.returned > 0 THEN 'partially_returned'
        WHEN r.open THEN 'requested' ELSE 'none' END),
  ('has_open_return', o.has_open_return::text, coalesce(r.open, false)::text),
  ('is_held', o.is_held::text, coalesce(h.open, false)::text)
) AS c (field, found, expected)
WHERE c.found <> c.expected;
