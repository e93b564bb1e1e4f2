-- The ledger is double entry: what one account gains, another loses. Looked at when the transaction commits, because a
-- posting is written entry by entry. Whoever may execute a trigger's function can put it on a table of theirs: nobody.
CREATE FUNCTION ledger_is_balanced_v1() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  IF EXISTS (SELECT FROM ledger_entries WHERE posting = NEW.posting
             GROUP BY posting HAVING sum(amount) <> 0 OR count(DISTINCT currency) <> 1) THEN
    RAISE EXCEPTION 'posting % does not sum to zero', NEW.posting USING ERRCODE = 'integrity_constraint_violation';
  END IF;
  RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER ledger_is_balanced AFTER INSERT ON ledger_entries
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION ledger_is_balanced_v1();

-- An entry stands: what was wrong is posted back.
CREATE TRIGGER ledger_written_once BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_entries
FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse_change_v1();
REVOKE ALL ON FUNCTION ledger_is_balanced_v1 FROM PUBLIC;
REVOKE UPDATE, DELETE ON ledger_entries FROM counterfoil_app;
-- Notices are evidence; the old ones are deleted.
REVOKE UPDATE ON gateway_notices FROM counterfoil_app;
