-- Prices one order whose lines can be sold: the arithmetic of counterfoil.orders.pricing.price_order, in smallest units.
-- A test compares the two. Every amount is rounded once, half up, where it comes to be.
--
-- Per line: p_prices (of one unit), p_quantities, p_rates (percent of tax), p_products (each once). Per coupon, in the
-- order of application: p_kinds (percent or fixed) and p_values (percent, or an amount). p_shipping: the fee, NULL for
-- none; p_free_from: worth of goods from which on there is none, NULL for never. p_scale: smallest units of the currency.
CREATE FUNCTION price_order_v1(
  p_prices numeric[], p_quantities integer[], p_rates numeric[], p_products bigint[], p_scale integer,
  p_kinds text[], p_values numeric[], p_tax_included boolean,
  p_shipping numeric, p_free_from numeric, p_shipping_rate numeric,
  OUT discounts numeric[], OUT taxes numeric[],                   -- per line: its part of the discounts, its tax
  OUT reductions numeric[],                                       -- per coupon: what it takes off
  OUT shipping numeric, OUT shipping_tax numeric, OUT tax numeric, OUT total numeric
) LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, public, pg_temp
AS $$
DECLARE
  v_million constant numeric := 1000000;
  v_lines   constant integer := cardinality(p_prices);
  v_amounts numeric[] := array_fill(0::numeric, ARRAY[v_lines]);
  v_goods   numeric := 0;
  v_left    numeric;
  v_cut     numeric;
  v_rate    numeric;                                              -- in millionths of the whole, as are the others
BEGIN
  FOR i IN 1 .. v_lines LOOP
    v_amounts[i] := trunc(p_prices[i] * p_scale) * p_quantities[i];
    v_goods := v_goods + v_amounts[i];
  END LOOP;

  -- Each coupon on what the ones before it left.
  v_left := v_goods;
  reductions := '{}';
  FOR i IN 1 .. cardinality(p_kinds) LOOP
    v_cut := CASE p_kinds[i]
      WHEN 'percent' THEN div(2 * v_left * trunc(p_values[i] * 10000) + v_million, 2 * v_million)
      ELSE least(trunc(p_values[i] * p_scale), v_left) END;
    reductions := reductions || v_cut;
    v_left := v_left - v_cut;
  END LOOP;

  -- Largest remainder: what rounding down leaves goes to the largest remainders, and between equal ones to the lower id.
  discounts := array_fill(0::numeric, ARRAY[v_lines]);
  IF v_left < v_goods THEN
    SELECT array_agg(p.part + CASE WHEN p.claim <= p.rest THEN 1 ELSE 0 END ORDER BY p.line) INTO discounts
    FROM (
      SELECT f.line, f.part, v_goods - v_left - sum(f.part) OVER () AS rest,
             row_number() OVER (ORDER BY f.remainder DESC, f.product) AS claim
      FROM (
        SELECT l.line, l.product, div((v_goods - v_left) * l.amount, v_goods) AS part,
               mod((v_goods - v_left) * l.amount, v_goods) AS remainder
        FROM unnest(v_amounts, p_products) WITH ORDINALITY AS l (amount, product, line)
      ) AS f
    ) AS p;
  END IF;

  taxes := array_fill(0::numeric, ARRAY[v_lines]);
  tax := 0;
  FOR i IN 1 .. v_lines LOOP
    IF p_rates[i] > 0 THEN
      v_rate := trunc(p_rates[i] * 10000);
      v_cut := v_million + CASE WHEN p_tax_included THEN v_rate ELSE 0 END;
      taxes[i] := div(2 * (v_amounts[i] - discounts[i]) * v_rate + v_cut, 2 * v_cut);
      tax := tax + taxes[i];
    END IF;
  END LOOP;

  shipping := 0;
  shipping_tax := 0;
  IF p_shipping > 0 AND (p_free_from IS NULL OR v_left < p_free_from * p_scale) THEN
    shipping := trunc(p_shipping * p_scale);
    v_rate := trunc(p_shipping_rate * 10000);
    v_cut := v_million + CASE WHEN p_tax_included THEN v_rate ELSE 0 END;
    shipping_tax := div(2 * shipping * v_rate + v_cut, 2 * v_cut);
    tax := tax + shipping_tax;
  END IF;

  total := v_left + shipping + CASE WHEN p_tax_included THEN 0 ELSE tax END;
END
$$;
