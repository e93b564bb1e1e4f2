-- Gives everything back to whoever migrates. The roles stay: other databases of the server may use them.
ALTER FUNCTION place_orders_v1 SECURITY INVOKER RESET search_path;
ALTER FUNCTION place_orders_v1 OWNER TO CURRENT_USER;
ALTER FUNCTION place_orders_v2 OWNER TO CURRENT_USER;
GRANT EXECUTE ON FUNCTION place_orders_v1, minor_units_v1 TO PUBLIC;
REVOKE EXECUTE ON FUNCTION minor_units_v1 FROM counterfoil_app, counterfoil_placement;
DO $$
BEGIN
  EXECUTE format('GRANT TEMPORARY ON DATABASE %I TO PUBLIC', current_database());
EXCEPTION WHEN insufficient_privilege THEN
  NULL;
END
$$;
ALTER DEFAULT PRIVILEGES IN SCHEMA public REVOKE ALL ON TABLES FROM counterfoil_app;
ALTER DEFAULT PRIVILEGES IN SCHEMA public REVOKE ALL ON SEQUENCES FROM counterfoil_app;
DO $$
DECLARE
  v_table record;
BEGIN
  FOR v_table IN
    SELECT oid::regclass AS name, relkind FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'S') AND pg_has_role(relowner, 'USAGE')
  LOOP
    EXECUTE format('REVOKE ALL ON %s %s FROM counterfoil_app, counterfoil_placement',
                   CASE v_table.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, v_table.name);
  END LOOP;
END
$$;
REVOKE ALL ON SCHEMA public FROM counterfoil_app, counterfoil_placement;
