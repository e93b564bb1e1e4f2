-- Takes rights away wherever they were changed: API, console, command line or psql. A trigger, so that nobody forgets it.
-- No temporary table of the session can stand in for one of ours, and nobody can put these functions on a table of theirs.
-- The account's epoch rises with every change of password, role or activity, and with a wish to end all sessions.
CREATE FUNCTION raise_token_epoch_v1() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  NEW.token_epoch := greatest(NEW.token_epoch, OLD.token_epoch + 1);
  INSERT INTO access_revocations (user_id, epoch) VALUES (NEW.id, NEW.token_epoch);
  UPDATE sign_ins SET revoked_at = now(), revoke_reason = 'account changed'
  WHERE user_id = NEW.id AND revoked_at IS NULL;
  RETURN NEW;
END $$;

CREATE TRIGGER raise_token_epoch BEFORE UPDATE OF password, role, is_active, token_epoch ON users FOR EACH ROW
WHEN (OLD.password IS DISTINCT FROM NEW.password OR OLD.role IS DISTINCT FROM NEW.role
      OR OLD.is_active IS DISTINCT FROM NEW.is_active OR OLD.token_epoch IS DISTINCT FROM NEW.token_epoch)
EXECUTE FUNCTION raise_token_epoch_v1();

CREATE FUNCTION revoke_sign_in_v1() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  INSERT INTO access_revocations (user_id, sign_in_id) VALUES (NEW.user_id, NEW.id);
  RETURN NULL;
END $$;

CREATE TRIGGER revoke_sign_in AFTER UPDATE OF revoked_at ON sign_ins FOR EACH ROW
WHEN (OLD.revoked_at IS NULL AND NEW.revoked_at IS NOT NULL)
EXECUTE FUNCTION revoke_sign_in_v1();

CREATE FUNCTION revoke_api_key_v1() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  INSERT INTO access_revocations (user_id, api_key_id) VALUES (NEW.user_id, NEW.id);
  RETURN NULL;
END $$;

CREATE TRIGGER revoke_api_key AFTER UPDATE OF revoked_at ON api_keys FOR EACH ROW
WHEN (OLD.revoked_at IS NULL AND NEW.revoked_at IS NOT NULL)
EXECUTE FUNCTION revoke_api_key_v1();

REVOKE ALL ON FUNCTION raise_token_epoch_v1, revoke_sign_in_v1, revoke_api_key_v1 FROM PUBLIC;
