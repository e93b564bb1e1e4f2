-- Who may do what. Roles belong to the whole server: other databases may have made them, or make them at this moment.
--
--   counterfoil_app        what `serve` and `work` act as: reads and writes everything but the trail, which it can only
--                          read and add to
--   counterfoil_placement  owns place_orders_v1 and _v2. Nobody logs in as it and nobody of the application is a member;
--                          the triggers of the trail are silent for it, because these functions write their own entries
DO $$
DECLARE
  v_role text;
  v_kind constant text := CASE WHEN current_setting('server_version_num')::integer >= 160000 THEN 'SET' ELSE 'MEMBER' END;
BEGIN
  FOREACH v_role IN ARRAY ARRAY['counterfoil_app', 'counterfoil_placement'] LOOP
    BEGIN
      IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = v_role) THEN
        BEGIN
          EXECUTE format('CREATE ROLE %I NOLOGIN', v_role);
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
          NULL;  -- another database's migration was faster
        END;
      END IF;
      -- To give it functions, and to act as it.
      IF NOT pg_has_role(current_user, v_role, v_kind) THEN
        BEGIN
          EXECUTE format('GRANT %I TO CURRENT_USER', v_role);
        EXCEPTION WHEN unique_violation THEN
          NULL;
        END;
      END IF;
    EXCEPTION WHEN insufficient_privilege THEN
      RAISE EXCEPTION 'The role "%" may not make or act as the role "%"', current_user, v_role
        USING ERRCODE = 'insufficient_privilege', HINT = format(
          'as a superuser run: CREATE ROLE counterfoil_app NOLOGIN; CREATE ROLE counterfoil_placement NOLOGIN; '
          'GRANT counterfoil_app, counterfoil_placement TO %I;', current_user);
    END;
  END LOOP;
END
$$;

GRANT USAGE ON SCHEMA public TO counterfoil_app, counterfoil_placement;

-- Tables that are there and, by the default privileges of whoever migrates, all that come.
DO $$
DECLARE
  v_table record;
BEGIN
  FOR v_table IN
    SELECT oid::regclass AS name, relkind FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'S') AND pg_has_role(relowner, 'USAGE')
  LOOP
    EXECUTE format(CASE v_table.relkind WHEN 'S' THEN 'GRANT USAGE, SELECT ON SEQUENCE %s TO counterfoil_app'
                   ELSE 'GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO counterfoil_app' END, v_table.name);
  END LOOP;
END
$$;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO counterfoil_app;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO counterfoil_app;

-- The trail: to read, and to add a fact to, without choosing its number, its transaction or its time. Seals are made by
-- the function alone.
REVOKE ALL ON django_migrations, audit_entries, audit_seals FROM counterfoil_app;
GRANT SELECT ON django_migrations, audit_entries, audit_seals TO counterfoil_app;
-- An event is written once too; only that it was published is noted in it.
REVOKE UPDATE, DELETE ON outbox_events FROM counterfoil_app;
GRANT UPDATE (published_at) ON outbox_events TO counterfoil_app;
GRANT INSERT (actor, action, target, target_id, target_key, request_id, reason, changes) ON audit_entries TO counterfoil_app;

-- PostgreSQL lets everybody execute a new function. Whoever may execute a trigger's function can put it on a table of
-- their own: audit_changes_v1 would then run a cast of theirs, to json, with the rights of its owner.
REVOKE ALL ON FUNCTION minor_units_v1, seal_audit_entries_v1, audit_changes_v1, audit_hide_v1, audit_refuse_change_v1
  FROM PUBLIC;
GRANT EXECUTE ON FUNCTION minor_units_v1 TO counterfoil_app, counterfoil_placement;
GRANT EXECUTE ON FUNCTION seal_audit_entries_v1 TO counterfoil_app;

-- What placing an order needs.
GRANT SELECT ON users, products TO counterfoil_placement;
GRANT SELECT, INSERT ON orders, order_items, stock_movements, outbox_events TO counterfoil_placement;
GRANT SELECT, UPDATE ON stock_levels TO counterfoil_placement;
GRANT SELECT, INSERT, UPDATE, DELETE ON idempotency_keys TO counterfoil_placement;
GRANT INSERT (occurred_at, actor, action, target, target_id, request_id, after_hash) ON audit_entries TO counterfoil_placement;
GRANT USAGE ON SEQUENCE orders_id_seq TO counterfoil_placement;

-- The release before this one calls place_orders_v1 until the last of its processes is gone: it writes its own entry
-- too, so it must be as silent. Whoever gets a function must for that moment be allowed to create one.
ALTER FUNCTION place_orders_v1 SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp;
REVOKE ALL ON FUNCTION place_orders_v1, place_orders_v2 FROM PUBLIC;
GRANT EXECUTE ON FUNCTION place_orders_v1, place_orders_v2 TO counterfoil_app, CURRENT_USER;
GRANT CREATE ON SCHEMA public TO counterfoil_placement;
ALTER FUNCTION place_orders_v1 OWNER TO counterfoil_placement;
ALTER FUNCTION place_orders_v2 OWNER TO counterfoil_placement;
REVOKE CREATE ON SCHEMA public FROM counterfoil_placement;

-- Nothing of ours makes temporary tables, and they are where such an attempt begins. Only the database's owner can say
-- so; the rights above do not depend on it.
DO $$
BEGIN
  EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
EXCEPTION WHEN insufficient_privilege THEN
  NULL;
END
$$;
