-- What placing an order needs beside what sql/audit_roles_v1.sql gives, and the owner of place_orders_v3.
GRANT SELECT, UPDATE ON coupons TO counterfoil_placement;
GRANT SELECT, INSERT ON coupon_uses TO counterfoil_placement;
GRANT INSERT ON adjustments TO counterfoil_placement;
REVOKE ALL ON FUNCTION price_order_v1, place_orders_v3 FROM PUBLIC;
GRANT EXECUTE ON FUNCTION price_order_v1 TO counterfoil_placement, CURRENT_USER;
GRANT EXECUTE ON FUNCTION place_orders_v3 TO counterfoil_app, CURRENT_USER;
-- Whoever gets a function must for that moment be allowed to create one.
GRANT CREATE ON SCHEMA public TO counterfoil_placement;
ALTER FUNCTION place_orders_v3 OWNER TO counterfoil_placement;
REVOKE CREATE ON SCHEMA public FROM counterfoil_placement;
