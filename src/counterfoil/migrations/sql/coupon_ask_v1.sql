-- One coupon that an order of a batch names, as place_orders_v3 finds it: `order_n` counts the orders of the batch,
-- `problem` says why the coupon does not count now, what is left is NULL without a limit. Equal coupons have equal
-- `slot`, equal coupons of one customer equal `own_slot`.
CREATE TYPE coupon_ask_v1 AS (
  order_n integer, code text, coupon_id bigint, kind text, value numeric, currency text, minimum_total numeric,
  problem text, uses_left integer, own_left integer, own_limit integer, slot integer, own_slot integer
);
