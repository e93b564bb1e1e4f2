-- Decides and writes one batch of orders in the caller's transaction; one row per order comes back, in order.
--
-- Per order (arrays of equal length n): p_users, p_actors (also the scope of the key), p_keys (NULL: none given),
-- p_fingerprints, p_requests, p_references (NULL: none), p_events (a fresh UUID each).
-- Per line (arrays of equal length, ascending by order): p_line_orders (1..n), p_line_products (each product once
-- in an order), p_line_quantities (1 or more). Per named coupon (ascending by order): p_coupon_orders, p_coupon_codes (in
-- capitals, each once in an order).
--
-- p_tax_included: whether prices contain their tax. Per currency that shipping costs something in: p_ship_currencies,
-- p_ship_fees, p_ship_free_from (NULL: never free); p_ship_rate: its tax in percent. An order without tax, coupons and
-- shipping is priced as by place_orders_v2, and its event is the same; a batch of such orders runs no other statements.
--
-- p_open_orders_max and p_open_units_max: what a customer may have open, orders that hold stock without being paid and
-- units in them; 0: any number, and with both 0 nothing of it is read. They bind the customer's own orders. What
-- somebody else orders for them is counted, never refused. At most 10,000 open orders are counted, which is the largest
-- cap there is; each holds a unit or more, so counting further would change no decision.
--
-- Outcomes: placed (facts = the order as written), replayed (facts = the order as first answered, or the refusal as
-- first answered), key_reused, unknown_user, invalid_lines, currency_mixed, total_too_large, invalid_coupons,
-- coupon_used_up, coupon_limit, too_many_units, too_many_open, out_of_stock; facts of a refusal say which lines, which
-- coupons or how many, and why. The decision is the one of
-- counterfoil.orders.pricing.decide_order, applied in arrival order; a test compares the two.
--
-- Audit: one entry for each placed order, written here. It stands for all rows of the order, uses of coupons too, and its
-- after_hash is the SHA-256 of the order.created event, which holds all of them. The function belongs to
-- counterfoil_placement, and the triggers that write an entry for every row are silent for that role alone: see
-- sql/audit_v1.sql.
--
-- Locks: idempotency rows in key order, then who decides on a customer's holds in the order of these locks, then coupons
-- by id, then stock rows in product order, so two batches cannot wait for each other in a circle.
CREATE FUNCTION place_orders_v3(
  p_users bigint[], p_actors text[], p_keys text[], p_fingerprints bytea[], p_requests text[], p_references text[],
  p_events uuid[], p_line_orders integer[], p_line_products bigint[], p_line_quantities integer[],
  p_hold_seconds integer, p_key_hours integer, p_total_max numeric,
  p_open_orders_max integer DEFAULT 0, p_open_units_max integer DEFAULT 0,
  p_coupon_orders integer[] DEFAULT '{}', p_coupon_codes text[] DEFAULT '{}', p_tax_included boolean DEFAULT true,
  p_ship_currencies text[] DEFAULT '{}', p_ship_fees numeric[] DEFAULT '{}', p_ship_free_from numeric[] DEFAULT '{}',
  p_ship_rate numeric DEFAULT 0
) RETURNS TABLE (n integer, outcome text, order_id bigint, facts text)
LANGUAGE plpgsql
SECURITY DEFINER
-- No table of the caller's session can stand in for one of ours.
SET search_path = pg_catalog, public, pg_temp
-- Plans made anew for the arrays of each call cost more than the work: 0.9 ms against 0.5 ms an order, measured.
SET plan_cache_mode = force_generic_plan
-- Statistics taken while a table was empty make a sequential scan look cheap, and a session keeps that plan while the
-- table grows. Every look-up here has an index.
SET enable_seqscan = off
AS $$
#variable_conflict use_column
DECLARE
  v_count      constant integer := cardinality(p_users);
  v_now        constant timestamptz := now();
  v_until      constant timestamptz := now() + make_interval(secs => p_hold_seconds);
  v_ids        bigint[];                                          -- per order, taken even if it is refused
  v_outcomes   text[] := array_fill('new'::text, ARRAY[v_count]);
  v_facts      text[] := array_fill(NULL::text, ARRAY[v_count]);
  v_totals     numeric[] := array_fill(0::numeric, ARRAY[v_count]);
  v_currencies text[] := array_fill(NULL::text, ARRAY[v_count]);
  v_products   bigint[];                                          -- the batch's stock rows, ascending
  v_available  bigint[];                                          -- what is left of each; NULL: sold without limit
  v_slots      integer[];                                         -- per line: its place in v_products
  v_prices     numeric[];                                         -- per line, as are the next seven
  v_line_money text[];
  v_skus       text[];
  v_names      text[];
  v_sellable   boolean[];                                         -- NULL: no such product
  v_rates      numeric[];                                         -- percent of tax
  v_discounts  numeric[];                                         -- its part of the coupons, NULL: none of it was priced
  v_taxes      numeric[];
  v_line       integer := 1;
  v_first      integer;
  v_lines      constant integer := cardinality(p_line_orders);
  v_holders    bigint[];                                          -- customers who order for themselves; NULL: no cap
  v_orders     integer[];                                         -- what each has open, as are the next two
  v_units      bigint[];
  v_ends       timestamptz[];                                     -- when the first of their holds ends
  v_extras     boolean;                                           -- some order of the batch is worth more or less than its lines
  v_adjusted   jsonb[] := array_fill(NULL::jsonb, ARRAY[v_count]);  -- adjustments of each such order
  v_ship       integer;
  v_scale      integer;
  v_price      record;
  v_named      constant integer := cardinality(p_coupon_codes);
  v_asked      coupon_ask_v1[];                                   -- named coupons, ascending by order
  v_ask        coupon_ask_v1;
  v_next       integer := 1;
  v_from       integer;
  v_uses       integer[] := array_fill(0, ARRAY[v_named]);        -- taken by orders of this batch, by `slot`
  v_own_uses   integer[] := array_fill(0, ARRAY[v_named]);        -- the same, of one customer, by `own_slot`
  v_holder     integer;
  v_wanted     bigint;
  v_reason     text;
  v_problem    text;
  v_details    jsonb;
  v_row        record;
BEGIN
  SELECT array_agg(nextval('orders_id_seq')) INTO v_ids FROM generate_series(1, v_count);

  -- Keys: a row that can be inserted is ours; any other was answered before. A row still being written by somebody
  -- else makes this statement wait for that transaction.
  FOR v_row IN
    WITH asked AS (
      SELECT i, p_actors[i] AS principal, p_keys[i] AS key, p_fingerprints[i] AS fingerprint
      FROM generate_series(1, v_count) AS i WHERE p_keys[i] IS NOT NULL
    ), claimed AS (
      INSERT INTO idempotency_keys AS k (principal, key, fingerprint, response_status, resource_id, expires_at)
      SELECT principal, key, fingerprint, 201, v_ids[i], v_now + make_interval(hours => p_key_hours)
      FROM asked ORDER BY principal, key
      ON CONFLICT (principal, key) DO UPDATE
        SET fingerprint = excluded.fingerprint, response_status = 201, response_body = NULL,
            resource_id = excluded.resource_id, created_at = v_now, expires_at = excluded.expires_at
        WHERE k.expires_at <= v_now
      RETURNING k.principal, k.key
    )
    SELECT a.i FROM asked a WHERE NOT EXISTS (
      SELECT FROM claimed c WHERE c.principal = a.principal AND c.key = a.key)
  LOOP
    v_outcomes[v_row.i] := 'seen';
  END LOOP;

  IF 'seen' = ANY (v_outcomes) THEN
    FOR v_row IN
      SELECT i, k.fingerprint = p_fingerprints[i] AS same, k.response_status AS status, k.resource_id,
             CASE WHEN k.resource_id IS NULL THEN convert_from(k.response_body, 'UTF8') ELSE (
               SELECT e.payload::text FROM outbox_events e
               WHERE e.aggregate = 'order' AND e.aggregate_id = k.resource_id AND e.type = 'order.created')
             END AS body
      FROM generate_series(1, v_count) AS i
      JOIN idempotency_keys k ON k.principal = p_actors[i] AND k.key = p_keys[i]
      WHERE v_outcomes[i] = 'seen'
    LOOP
      v_outcomes[v_row.i] := CASE WHEN NOT v_row.same THEN 'key_reused'
                                  WHEN v_row.status = 201 THEN 'replayed' ELSE 'replayed_refusal' END;
      v_facts[v_row.i] := CASE WHEN v_row.same THEN v_row.body END;
      v_ids[v_row.i] := v_row.resource_id;
    END LOOP;
  END IF;

  FOR v_row IN
    SELECT i FROM generate_series(1, v_count) AS i
    WHERE v_outcomes[i] = 'new' AND NOT EXISTS (SELECT FROM users u WHERE u.id = p_users[i] AND u.is_active)
  LOOP
    v_outcomes[v_row.i] := 'unknown_user';
    v_facts[v_row.i] := jsonb_build_object('user_id', p_users[v_row.i]);
  END LOOP;

  IF p_open_orders_max > 0 OR p_open_units_max > 0 THEN
    SELECT array_agg(u.id) INTO v_holders FROM users u WHERE u.role = 'customer' AND u.id = ANY (ARRAY(
      SELECT p_users[i] FROM generate_series(1, v_count) AS i
      WHERE v_outcomes[i] = 'new' AND p_actors[i] = 'user:' || p_users[i]));

    -- "Who decides on this customer's holds", until the commit. Reading comes after the lock and in a statement of its
    -- own, whose snapshot has every order of whoever had the lock before.
    PERFORM pg_advisory_xact_lock(x'6366686f'::integer, l.lock) FROM (
      SELECT DISTINCT mod(id, 2147483647)::integer AS lock FROM unnest(v_holders) AS id ORDER BY lock) AS l;

    SELECT array_agg(h.orders ORDER BY c.place), array_agg(h.units ORDER BY c.place),
           array_agg(coalesce(h.ends, v_until) ORDER BY c.place)
    INTO v_orders, v_units, v_ends
    FROM unnest(v_holders) WITH ORDINALITY AS c (id, place), LATERAL (
      SELECT count(*)::integer AS orders, coalesce(sum(o.units), 0)::bigint AS units, min(o.reserved_until) AS ends
      FROM (
        SELECT o.reserved_until, CASE WHEN p_open_units_max > 0 THEN (
                 SELECT sum(q.quantity) FROM order_items q WHERE q.order_id = o.id) END AS units
        FROM orders o WHERE o.user_id = c.id AND o.status = 'created' AND o.reserved_until > v_now
        ORDER BY o.reserved_until LIMIT 10000
      ) AS o
    ) AS h;
  END IF;

  IF v_named > 0 THEN
    PERFORM 1 FROM coupons c WHERE c.code = ANY (p_coupon_codes) ORDER BY c.id FOR NO KEY UPDATE;

    -- In a statement of its own, whose snapshot has every use by whoever had the locks before. In the order of
    -- application: percentages before amounts, older coupons before younger.
    SELECT array_agg(ROW(a.o, a.code, a.id, a.kind, a.value, a.currency, a.minimum_total, a.problem, a.uses_left,
                         a.own_left, a.own_limit, a.slot, a.own_slot)::coupon_ask_v1 ORDER BY a.o, a.kind = 'fixed', a.id)
    INTO v_asked
    FROM (
      SELECT n.o, n.code, c.id, c.kind, c.value, c.currency::text, c.minimum_total,
             CASE WHEN c.id IS NULL THEN 'unknown' WHEN NOT c.active THEN 'inactive'
                  WHEN c.starts_at > v_now THEN 'not_yet' WHEN c.ends_at <= v_now THEN 'ended' END AS problem,
             c.usage_limit - c.used AS uses_left, c.per_customer_limit AS own_limit,
             CASE WHEN c.per_customer_limit IS NOT NULL THEN c.per_customer_limit - (
               SELECT count(*)::integer FROM coupon_uses u
               WHERE u.coupon_id = c.id AND u.user_id = p_users[n.o] AND u.released_at IS NULL) END AS own_left,
             dense_rank() OVER (ORDER BY c.id)::integer AS slot,
             dense_rank() OVER (ORDER BY c.id, p_users[n.o])::integer AS own_slot
      FROM unnest(p_coupon_orders, p_coupon_codes) AS n (o, code) LEFT JOIN coupons c ON c.code = n.code
    ) AS a;
  END IF;

  SELECT array_agg(s.product_id ORDER BY s.product_id),
         array_agg(CASE WHEN s.allow_backorder THEN NULL ELSE s.on_hand - s.reserved - s.allocated END
                   ORDER BY s.product_id)
  INTO v_products, v_available
  FROM (
    SELECT product_id, on_hand, reserved, allocated, allow_backorder FROM stock_levels
    WHERE product_id = ANY (p_line_products) ORDER BY product_id FOR NO KEY UPDATE
  ) AS s;

  -- Found by id alone: with the condition on deleted_at in the join, a plan may walk the partial index on it.
  SELECT array_agg(s.slot ORDER BY l.line), array_agg(p.price ORDER BY l.line),
         array_agg(p.currency::text ORDER BY l.line),
         array_agg(CASE WHEN p.deleted_at IS NULL THEN p.sku::text END ORDER BY l.line),
         array_agg(p.name::text ORDER BY l.line),
         array_agg(p.active AND p.deleted_at IS NULL AND s.slot IS NOT NULL ORDER BY l.line),
         array_agg(p.tax_rate ORDER BY l.line), bool_or(p.tax_rate > 0)
  INTO v_slots, v_prices, v_line_money, v_skus, v_names, v_sellable, v_rates, v_extras
  FROM unnest(p_line_products) WITH ORDINALITY AS l (product_id, line)
  LEFT JOIN products p ON p.id = l.product_id
  LEFT JOIN unnest(v_products) WITH ORDINALITY AS s (product_id, slot) ON s.product_id = l.product_id;

  v_extras := coalesce(v_extras, false) OR v_named > 0 OR cardinality(p_ship_currencies) > 0 OR NOT p_tax_included;
  IF v_extras THEN
    v_discounts := array_fill(NULL::numeric, ARRAY[v_lines]);
    v_taxes := v_discounts;
  END IF;

  -- Arrival order: an order gets all of its lines or none, from what the orders before it left.
  FOR v_order IN 1 .. v_count LOOP
    v_first := v_line;
    WHILE v_line <= v_lines AND p_line_orders[v_line] = v_order LOOP
      v_line := v_line + 1;
    END LOOP;
    v_from := v_next;
    WHILE v_next <= v_named AND (v_asked[v_next]).order_n = v_order LOOP
      v_next := v_next + 1;
    END LOOP;
    CONTINUE WHEN v_outcomes[v_order] <> 'new';

    v_problem := NULL;
    v_details := '[]'::jsonb;
    FOR i IN v_first .. v_line - 1 LOOP
      IF v_sellable[i] IS NOT TRUE THEN
        v_problem := 'invalid_lines';
        v_details := v_details || jsonb_build_object('product_id', p_line_products[i], 'reason',
          CASE WHEN v_skus[i] IS NULL THEN 'unknown' ELSE 'inactive' END);
      END IF;
    END LOOP;
    IF v_problem IS NULL THEN
      FOR i IN v_first .. v_line - 1 LOOP
        IF v_line_money[i] <> v_line_money[v_first] THEN
          v_problem := 'currency_mixed';
          v_details := jsonb_build_array(v_line_money[v_first], v_line_money[i]);
          EXIT;
        END IF;
        v_totals[v_order] := v_totals[v_order] + v_prices[i] * p_line_quantities[i];
      END LOOP;
    END IF;
    IF v_problem IS NULL AND v_totals[v_order] >= p_total_max THEN
      v_problem := 'total_too_large';
    END IF;

    -- Every coupon that does not count is named; only then the first one that has no use left.
    IF v_problem IS NULL THEN
      FOR i IN v_from .. v_next - 1 LOOP
        v_ask := v_asked[i];
        v_reason := CASE WHEN v_ask.problem IS NOT NULL THEN v_ask.problem
                         WHEN v_ask.currency <> v_line_money[v_first] THEN 'currency'
                         WHEN v_totals[v_order] < v_ask.minimum_total THEN 'minimum' END;
        IF v_reason IS NOT NULL THEN
          v_problem := 'invalid_coupons';
          v_details := v_details || jsonb_build_object('code', v_ask.code, 'reason', v_reason, 'currency', v_ask.currency,
            'minimum_minor', (v_ask.minimum_total * minor_units_v1(v_ask.currency))::bigint);
        END IF;
      END LOOP;
    END IF;
    IF v_problem IS NULL THEN
      FOR i IN v_from .. v_next - 1 LOOP
        v_ask := v_asked[i];
        v_problem := CASE WHEN v_ask.uses_left <= v_uses[v_ask.slot] THEN 'coupon_used_up'
                          WHEN v_ask.own_left <= v_own_uses[v_ask.own_slot] THEN 'coupon_limit' END;
        IF v_problem IS NOT NULL THEN
          v_details := jsonb_build_object('code', v_ask.code, 'limit', v_ask.own_limit);
          EXIT;
        END IF;
      END LOOP;
    END IF;

    IF v_problem IS NULL AND v_extras THEN
      v_ship := array_position(p_ship_currencies, v_line_money[v_first]);
      IF v_next > v_from OR v_ship IS NOT NULL OR NOT p_tax_included OR 0 < ANY (v_rates[v_first : v_line - 1]) THEN
        v_scale := minor_units_v1(v_line_money[v_first]);
        SELECT * INTO v_price FROM price_order_v1(
          v_prices[v_first : v_line - 1], p_line_quantities[v_first : v_line - 1], v_rates[v_first : v_line - 1],
          p_line_products[v_first : v_line - 1], v_scale,
          ARRAY(SELECT a.kind FROM unnest(v_asked[v_from : v_next - 1]) WITH ORDINALITY AS a ORDER BY a.ordinality),
          ARRAY(SELECT a.value FROM unnest(v_asked[v_from : v_next - 1]) WITH ORDINALITY AS a ORDER BY a.ordinality),
          p_tax_included, p_ship_fees[v_ship], p_ship_free_from[v_ship], p_ship_rate);
        v_discounts[v_first : v_line - 1] := v_price.discounts;
        v_taxes[v_first : v_line - 1] := v_price.taxes;
        v_totals[v_order] := v_price.total / v_scale;
        v_details := '[]'::jsonb;
        FOR i IN v_from .. v_next - 1 LOOP
          v_details := v_details || jsonb_build_object('kind', 'discount', 'label', (v_asked[i]).code,
                                                       'amount_minor', -(v_price.reductions)[i - v_from + 1]);
        END LOOP;
        IF v_price.shipping > 0 THEN
          v_details := v_details || jsonb_build_object('kind', 'shipping', 'label', 'Shipping', 'amount_minor', v_price.shipping,
            'tax_rate_ppm', trunc(p_ship_rate * 10000), 'tax_minor', v_price.shipping_tax);
        END IF;
        IF NOT p_tax_included AND v_price.tax > 0 THEN
          v_details := v_details || jsonb_build_object('kind', 'tax', 'label', 'Tax', 'amount_minor', v_price.tax);
        END IF;
        v_adjusted[v_order] := v_details;
        v_details := '[]'::jsonb;
        IF v_totals[v_order] >= p_total_max THEN
          v_problem := 'total_too_large';
        END IF;
      END IF;
    END IF;

    v_holder := array_position(v_holders, p_users[v_order]);
    IF v_problem IS NULL AND v_holder IS NOT NULL THEN
      v_wanted := (SELECT sum(quantity) FROM unnest(p_line_quantities[v_first : v_line - 1]) AS quantity);
      IF p_actors[v_order] <> 'user:' || p_users[v_order] THEN
        NULL;
      ELSIF p_open_units_max > 0 AND v_wanted > p_open_units_max THEN
        v_problem := 'too_many_units';
        v_details := to_jsonb(p_open_units_max);
      ELSIF (p_open_orders_max > 0 AND v_orders[v_holder] >= p_open_orders_max)
            OR (p_open_units_max > 0 AND v_units[v_holder] + v_wanted > p_open_units_max) THEN
        v_problem := 'too_many_open';
        v_details := jsonb_build_object(
          'open_orders', v_orders[v_holder], 'open_orders_max', p_open_orders_max,
          'open_units', CASE WHEN p_open_units_max > 0 THEN v_units[v_holder] END, 'open_units_max', p_open_units_max,
          'retry_after_seconds', ceil(extract(epoch FROM v_ends[v_holder] - v_now))::integer);
      END IF;
    END IF;
    IF v_problem IS NULL THEN
      FOR i IN v_first .. v_line - 1 LOOP
        IF v_available[v_slots[i]] < p_line_quantities[i] THEN
          v_problem := 'out_of_stock';
          v_details := v_details || jsonb_build_object('product_id', p_line_products[i],
            'requested', p_line_quantities[i], 'available', greatest(v_available[v_slots[i]], 0));
        END IF;
      END LOOP;
      IF v_problem IS NOT NULL THEN
        v_details := jsonb_build_object('request_id', p_requests[v_order], 'shortages', v_details);
      END IF;
    END IF;

    IF v_problem IS NULL THEN
      v_outcomes[v_order] := 'placed';
      v_currencies[v_order] := v_line_money[v_first];
      FOR i IN v_first .. v_line - 1 LOOP
        v_available[v_slots[i]] := v_available[v_slots[i]] - p_line_quantities[i];
      END LOOP;
      FOR i IN v_from .. v_next - 1 LOOP
        v_ask := v_asked[i];
        v_uses[v_ask.slot] := v_uses[v_ask.slot] + 1;
        v_own_uses[v_ask.own_slot] := v_own_uses[v_ask.own_slot] + 1;
      END LOOP;
      IF v_holder IS NOT NULL THEN
        v_orders[v_holder] := v_orders[v_holder] + 1;
        v_units[v_holder] := v_units[v_holder] + v_wanted;
        v_ends[v_holder] := least(v_ends[v_holder], v_until);
      END IF;
    ELSE
      v_outcomes[v_order] := v_problem;
      v_facts[v_order] := v_details::text;
    END IF;
  END LOOP;

  IF 'placed' = ANY (v_outcomes) THEN
    INSERT INTO orders (id, user_id, total_amount, currency, status, client_reference, version, placed_at,
                        reserved_until, created_at, updated_at, tax_included)
    SELECT v_ids[i], p_users[i], v_totals[i], v_currencies[i], 'created', p_references[i], 1, v_now, v_until, v_now, v_now,
           p_tax_included
    FROM generate_series(1, v_count) AS i WHERE v_outcomes[i] = 'placed';

    INSERT INTO order_items (order_id, product_id, line_no, sku, name, quantity, unit_price, created_at, tax_rate,
                             tax_amount, discount_amount)
    SELECT v_ids[o], l.product_id, row_number() OVER (PARTITION BY o ORDER BY l.line), l.sku, l.name, l.quantity,
           l.price, v_now, l.rate, CASE WHEN l.tax IS NULL THEN 0 ELSE l.tax / minor_units_v1(v_currencies[o]) END,
           CASE WHEN l.tax IS NULL THEN 0 ELSE l.discount / minor_units_v1(v_currencies[o]) END
    FROM unnest(p_line_orders, p_line_products, p_line_quantities, v_skus, v_names, v_prices, v_rates, v_taxes, v_discounts)
         WITH ORDINALITY AS l (o, product_id, quantity, sku, name, price, rate, tax, discount, line)
    WHERE v_outcomes[o] = 'placed';

    IF v_extras THEN
      INSERT INTO adjustments (order_id, kind, label, amount, tax_rate, tax_amount, created_at)
      SELECT v_ids[i], a.told ->> 'kind', a.told ->> 'label', (a.told ->> 'amount_minor')::numeric / u.units,
             coalesce((a.told ->> 'tax_rate_ppm')::numeric / 10000, 0), coalesce((a.told ->> 'tax_minor')::numeric / u.units, 0),
             v_now
      FROM generate_series(1, v_count) AS i, minor_units_v1(v_currencies[i]) AS u (units),
           jsonb_array_elements(v_adjusted[i]) WITH ORDINALITY AS a (told, place)
      WHERE v_outcomes[i] = 'placed' ORDER BY i, a.place;
    END IF;
    IF v_named > 0 THEN
      INSERT INTO coupon_uses (coupon_id, order_id, user_id, used_at)
      SELECT a.coupon_id, v_ids[a.order_n], p_users[a.order_n], v_now FROM unnest(v_asked) AS a
      WHERE v_outcomes[a.order_n] = 'placed';

      UPDATE coupons c SET used = c.used + taken.uses, updated_at = v_now
      FROM (
        SELECT a.coupon_id, count(*)::integer AS uses FROM unnest(v_asked) AS a
        WHERE v_outcomes[a.order_n] = 'placed' GROUP BY a.coupon_id
      ) AS taken
      WHERE c.id = taken.coupon_id;
    END IF;

    INSERT INTO stock_movements (product_id, order_id, kind, reserved_delta, actor, created_at)
    SELECT l.product_id, v_ids[o], 'reserve', l.quantity, p_actors[o], v_now
    FROM unnest(p_line_orders, p_line_products, p_line_quantities) AS l (o, product_id, quantity)
    WHERE v_outcomes[o] = 'placed';

    UPDATE stock_levels s SET reserved = s.reserved + taken.quantity, updated_at = v_now
    FROM (
      SELECT l.product_id, sum(l.quantity)::bigint AS quantity
      FROM unnest(p_line_orders, p_line_products, p_line_quantities) AS l (o, product_id, quantity)
      WHERE v_outcomes[o] = 'placed' GROUP BY l.product_id
    ) AS taken
    WHERE s.product_id = taken.product_id;

    WITH bodies AS (
      SELECT o, jsonb_agg(CASE WHEN l.tax IS NULL THEN jsonb_build_object(
          'product_id', l.product_id, 'sku', l.sku, 'name', l.name, 'quantity', l.quantity,
          'unit_price_minor', (l.price * minor_units_v1(v_currencies[o]))::bigint)
        ELSE jsonb_build_object(
          'product_id', l.product_id, 'sku', l.sku, 'name', l.name, 'quantity', l.quantity,
          'unit_price_minor', (l.price * minor_units_v1(v_currencies[o]))::bigint,
          'tax_rate_ppm', trunc(l.rate * 10000), 'tax_minor', l.tax, 'discount_minor', l.discount)
        END ORDER BY l.line) AS items
      FROM unnest(p_line_orders, p_line_products, p_line_quantities, v_skus, v_names, v_prices, v_rates, v_taxes, v_discounts)
           WITH ORDINALITY AS l (o, product_id, quantity, sku, name, price, rate, tax, discount, line)
      WHERE v_outcomes[o] = 'placed' GROUP BY o
    ), events AS (
      INSERT INTO outbox_events (event_id, aggregate, aggregate_id, seq, type, payload, actor, cause, occurred_at)
      SELECT p_events[o], 'order', v_ids[o], 1, 'order.created',
             jsonb_build_object(
               'order_id', v_ids[o], 'user_id', p_users[o], 'currency', v_currencies[o],
               'total_minor', (v_totals[o] * minor_units_v1(v_currencies[o]))::bigint,
               'client_reference', p_references[o], 'version', 1, 'created_at', v_now, 'reserved_until', v_until,
               'items', items) || CASE WHEN v_adjusted[o] IS NULL THEN '{}'::jsonb ELSE
               jsonb_build_object('adjustments', v_adjusted[o], 'tax_included', p_tax_included) END,
             p_actors[o], p_requests[o], v_now
      FROM bodies
      RETURNING aggregate_id, payload
    )
    SELECT array_agg(coalesce(v_facts[i], e.payload::text) ORDER BY i) INTO v_facts
    FROM generate_series(1, v_count) AS i LEFT JOIN events e ON e.aggregate_id = v_ids[i];

    INSERT INTO audit_entries (occurred_at, actor, action, target, target_id, request_id, after_hash)
    SELECT v_now, p_actors[i], 'order.place', 'order', v_ids[i], p_requests[i], sha256(convert_to(v_facts[i], 'UTF8'))
    FROM generate_series(1, v_count) AS i WHERE v_outcomes[i] = 'placed';
  END IF;

  -- A refusal for lack of stock is an answer and is kept with its key; an invalid request, a limit and a coupon without a
  -- use left, which somebody may give back, leave no key.
  IF v_outcomes && ARRAY['out_of_stock', 'unknown_user', 'invalid_lines', 'currency_mixed', 'total_too_large',
                         'invalid_coupons', 'coupon_used_up', 'coupon_limit', 'too_many_units', 'too_many_open'] THEN
    UPDATE idempotency_keys k SET response_status = 409, resource_id = NULL, response_body = convert_to(v_facts[i], 'UTF8')
    FROM generate_series(1, v_count) AS i
    WHERE v_outcomes[i] = 'out_of_stock' AND k.principal = p_actors[i] AND k.key = p_keys[i];

    DELETE FROM idempotency_keys k USING generate_series(1, v_count) AS i
    WHERE v_outcomes[i] IN ('unknown_user', 'invalid_lines', 'currency_mixed', 'total_too_large', 'invalid_coupons',
                            'coupon_used_up', 'coupon_limit', 'too_many_units', 'too_many_open')
      AND k.principal = p_actors[i] AND k.key = p_keys[i];
  END IF;

  RETURN QUERY SELECT i, v_outcomes[i], v_ids[i], v_facts[i] FROM generate_series(1, v_count) AS i;
END
$$;
