-- The audit trail: what writes it, what keeps it from being changed, and what chains it. See docs/explanation/audit.md.

-- Every committed entry carries the transaction that wrote it, so that the sealer can tell "all of them are there" from
-- "one may still come". Rows older than this column have 0; the first statement gives them that without touching them.
ALTER TABLE audit_entries ADD COLUMN xact xid8 NOT NULL DEFAULT '0';
ALTER TABLE audit_entries ALTER COLUMN xact SET DEFAULT pg_current_xact_id();
CREATE INDEX idx_audit_entries_xact ON audit_entries (xact, id);

-- Chained entries, up to 1,000 in a row. The n-th hash is SHA-256(hash before it || entry in canonical form).
--   number      counts 1, 2, 3, ... without a gap
--   position    place of the first entry in the whole chain, from 1
--   hashes      32 bytes for each of entry_ids
--   last_xact, last_id  entries of this era up to here are sealed: nothing can be committed below any more;
--               last_id -1: the entries of earlier eras are not all sealed yet
--   first_id    entries up to this id belong to earlier eras
--   cluster     the server's identifier: another one means that its transactions are counted anew, an era of its own
CREATE TABLE audit_seals (
  number bigint PRIMARY KEY,
  position bigint NOT NULL,
  entry_ids bigint[] NOT NULL,
  hashes bytea NOT NULL,
  last_xact xid8 NOT NULL,
  last_id bigint NOT NULL,
  first_id bigint NOT NULL,
  cluster bigint NOT NULL,
  sealed_at timestamptz NOT NULL DEFAULT now()
);

-- Replaces what must not be read in an entry: bytea columns (ciphertext, digests) and a password, which is a salted
-- hash, by the SHA-256 of what is stored; erasing a person's key leaves that as it is. Any other named column is text
-- that can be guessed, and whoever guesses it could try it on a hash for ever, so only 'hidden' stands there. So it does
-- for a blind index (…_index): its key outlives the person, and whoever has that could try addresses on its SHA-256.
CREATE FUNCTION audit_hide_v1(p_row jsonb, p_bytes text[], p_names text[]) RETURNS jsonb
LANGUAGE sql IMMUTABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
  SELECT p_row || coalesce(jsonb_object_agg(key, CASE WHEN key LIKE '%\_index' OR NOT (key = ANY (p_bytes) OR key = 'password') THEN 'hidden' ELSE 'sha256:' || encode(sha256(
           CASE WHEN key = ANY (p_bytes) THEN decode(substr(value, 3), 'hex') ELSE convert_to(value, 'UTF8') END
         ), 'hex') END), '{}')
  FROM jsonb_each_text(p_row)
  WHERE (key = ANY (p_bytes) OR key = ANY (p_names)) AND value IS NOT NULL
$$;

-- Writes one entry for each row that a statement has inserted, updated or deleted, and one for a TRUNCATE.
-- Arguments of the trigger: target, id column, columns to hide. Who and why come from declare_change(), which sets them
-- for the transaction; without it the login is named. Runs as the owner of the tables, so that whoever changes a row
-- needs no right on the trail.
CREATE FUNCTION audit_changes_v1() RETURNS trigger
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
-- Rows become text here; it must not depend on the session what that text is.
SET timezone = 'UTC'
SET bytea_output = 'hex'
AS $$
DECLARE
  v_target  constant text := TG_ARGV[0];
  v_id      constant text := TG_ARGV[1];
  v_names   constant text[] := TG_ARGV[2:];
  v_actor   constant text := left(coalesce(nullif(current_setting('counterfoil.actor', true), ''), 'db:' || session_user), 64);
  v_action  constant text := left(coalesce(nullif(current_setting('counterfoil.action', true), ''), v_target || '.' || lower(TG_OP)), 60);
  v_request constant text := left(coalesce(nullif(current_setting('counterfoil.request_id', true), ''), 'xact:' || pg_current_xact_id()), 64);
  v_reason  constant text := left(coalesce(current_setting('counterfoil.reason', true), ''), 255);
  v_bytes   text[];
  v_number  boolean;
  v_open    boolean;                                              -- nothing to hide in this table
  v_rows    bigint;
BEGIN
  IF TG_OP = 'TRUNCATE' THEN
    EXECUTE format('SELECT count(*) FROM %I.%I', TG_TABLE_SCHEMA, TG_TABLE_NAME) INTO v_rows;
    INSERT INTO audit_entries (occurred_at, actor, action, target, target_id, request_id, reason, changes)
    VALUES (now(), v_actor, v_action, v_target, 0, v_request, v_reason,
            jsonb_build_object('rows', jsonb_build_array(v_rows, 0)));
    RETURN NULL;
  END IF;

  SELECT coalesce(array_agg(attname::text) FILTER (WHERE atttypid = 'bytea'::regtype), '{}'),
         bool_or(attname = v_id AND atttypid = ANY ('{int2,int4,int8}'::regtype[]))
  INTO v_bytes, v_number
  FROM pg_attribute WHERE attrelid = TG_RELID AND attnum > 0 AND NOT attisdropped;
  v_open := cardinality(v_bytes) + cardinality(v_names) = 0;

  -- OFFSET 0 keeps the planner from computing a row's text once for each use of it.
  IF TG_OP = 'INSERT' THEN
    INSERT INTO audit_entries
      (occurred_at, actor, action, target, target_id, target_key, request_id, reason, changes, after_hash)
    SELECT now(), v_actor, v_action, v_target, CASE WHEN v_number THEN (after ->> v_id)::bigint ELSE 0 END,
           CASE WHEN NOT v_number THEN after ->> v_id END, v_request, v_reason,
           (SELECT jsonb_object_agg(key, jsonb_build_array(NULL::jsonb, value)) FROM jsonb_each(after)
            WHERE value <> 'null'),
           sha256(convert_to(after::text, 'UTF8'))
    FROM (
      SELECT CASE WHEN v_open THEN to_jsonb(n) ELSE audit_hide_v1(to_jsonb(n), v_bytes, v_names) END AS after
      FROM new_rows n OFFSET 0
    ) AS r;
  ELSIF TG_OP = 'DELETE' THEN
    INSERT INTO audit_entries
      (occurred_at, actor, action, target, target_id, target_key, request_id, reason, changes, before_hash)
    SELECT now(), v_actor, v_action, v_target, CASE WHEN v_number THEN (before ->> v_id)::bigint ELSE 0 END,
           CASE WHEN NOT v_number THEN before ->> v_id END, v_request, v_reason,
           (SELECT jsonb_object_agg(key, jsonb_build_array(value, NULL::jsonb)) FROM jsonb_each(before)
            WHERE value <> 'null'),
           sha256(convert_to(before::text, 'UTF8'))
    FROM (
      SELECT CASE WHEN v_open THEN to_jsonb(o) ELSE audit_hide_v1(to_jsonb(o), v_bytes, v_names) END AS before
      FROM old_rows o OFFSET 0
    ) AS r;
  ELSE
    -- A changed id makes two rows of it: one that is gone and one that is new.
    INSERT INTO audit_entries
      (occurred_at, actor, action, target, target_id, target_key, request_id, reason, changes, before_hash, after_hash)
    SELECT now(), v_actor, v_action, v_target,
           CASE WHEN v_number THEN (coalesce(after, before) ->> v_id)::bigint ELSE 0 END,
           CASE WHEN NOT v_number THEN coalesce(after, before) ->> v_id END, v_request, v_reason,
           (SELECT jsonb_object_agg(key, jsonb_build_array(before -> key, after -> key))
            FROM jsonb_object_keys(coalesce(after, before)) AS key
            WHERE (before -> key) IS DISTINCT FROM (after -> key)),
           sha256(convert_to(before::text, 'UTF8')), sha256(convert_to(after::text, 'UTF8'))
    FROM (
      SELECT before, after
      FROM (SELECT CASE WHEN v_open THEN to_jsonb(o) ELSE audit_hide_v1(to_jsonb(o), v_bytes, v_names) END AS before
            FROM old_rows o) AS o
      FULL JOIN (SELECT CASE WHEN v_open THEN to_jsonb(n) ELSE audit_hide_v1(to_jsonb(n), v_bytes, v_names) END AS after
                 FROM new_rows n) AS n ON after ->> v_id = before ->> v_id
      OFFSET 0
    ) AS r
    -- That something was used is no modification of it: a key notes its last use every few seconds.
    WHERE NOT coalesce(before <> after AND before - 'last_used_at' = after - 'last_used_at', false);
  END IF;
  RETURN NULL;
END
$$;

-- The trail is written once. Nobody has the right to change it but the owner, and this stops the owner's mistakes too.
CREATE FUNCTION audit_refuse_change_v1() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp
AS $$
BEGIN
  RAISE EXCEPTION '% is written once: % is refused', TG_TABLE_NAME, TG_OP
    USING ERRCODE = 'insufficient_privilege', HINT = 'An entry that is wrong is corrected by another entry.';
END
$$;
CREATE TRIGGER audit_written_once BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_entries
  FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse_change_v1();
CREATE TRIGGER audit_written_once BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_seals
  FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse_change_v1();

-- Chains up to p_entries_max committed entries, or a thousand more, and returns how many it chained; NULL when another
-- sealer is at it.
--
-- Only entries of transactions below the snapshot's xmin are taken: every transaction below it has ended, so none of
-- its entries can still appear. They are taken in the order (xact, id) from where the last seal ends, so none is missed
-- and none is taken twice. The lock is the transaction's: it goes with a sealer that dies, and so does its half work.
--
-- In a server whose transactions are counted anew (the tables were copied there) that order means nothing for what was
-- there before: those entries are told by their ids and sealed first, and a new era begins. The call that notices does
-- nothing but say so in an empty seal, because writers wait for it; the calls after it chain the past, in the order of
-- ids, and each looks once through the seals of the eras before for what they have chained already.
CREATE FUNCTION seal_audit_entries_v1(p_entries_max integer) RETURNS integer
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
-- Nothing tells the planner how many ids the arrays hold: "few" would make it compare each entry with each of them.
SET enable_nestloop = off
AS $$
DECLARE
  v_chunk   constant integer := 1000;
  v_cluster constant bigint := (SELECT system_identifier FROM pg_control_system());
  v_last    audit_seals;
  v_anew    boolean;
  v_total   integer := 0;
  v_row     record;
  v_past    bigint[];
  v_head    bytea;
  v_hashes  bytea[];
BEGIN
  -- "cfseal" in ASCII: a number that nobody else in this database uses.
  IF NOT pg_try_advisory_xact_lock(x'63667365616c'::bigint) THEN
    RETURN NULL;
  END IF;
  SELECT * INTO v_last FROM audit_seals ORDER BY number DESC LIMIT 1;
  IF v_last.number IS NULL THEN
    v_last := ROW(0, 1, '{}', '', '0', 0, 0, v_cluster, now());
    -- Entries of transactions that this server has not begun yet came from another one.
    v_anew := coalesce((SELECT max(xact) FROM audit_entries) >= pg_snapshot_xmax(pg_current_snapshot()), false);
  ELSE
    v_anew := v_last.cluster <> v_cluster;
  END IF;
  IF v_anew THEN
    -- While this is held nobody writes an entry, and nobody has taken a number for one: all that is there is the past,
    -- and all that comes has a higher id. Who writes while we wait for it waits too, so it is not for long: next time.
    PERFORM set_config('lock_timeout', '200ms', true);
    BEGIN
      LOCK TABLE audit_entries IN SHARE MODE;
    EXCEPTION WHEN lock_not_available THEN
      RETURN NULL;
    END;
    v_last.cluster := v_cluster;
    v_last.first_id := coalesce((SELECT max(id) FROM audit_entries), 0);
    INSERT INTO audit_seals (number, position, entry_ids, hashes, last_xact, last_id, first_id, cluster, sealed_at)
    VALUES (v_last.number + 1, v_last.position + cardinality(v_last.entry_ids), '{}', '', '0', -1, v_last.first_id,
            v_cluster, clock_timestamp());
    RETURN 0;
  END IF;
  v_head := coalesce((SELECT substr(hashes, length(hashes) - 31) FROM audit_seals
                      WHERE entry_ids <> '{}' ORDER BY number DESC LIMIT 1), '');

  IF v_last.last_id = -1 THEN
    SELECT coalesce(array_agg(id ORDER BY id), '{}') INTO v_past FROM (
      SELECT e.id FROM audit_entries e
      WHERE e.id <= v_last.first_id AND e.id > coalesce(
          (SELECT max(id) FROM audit_seals s, unnest(s.entry_ids) AS id
           WHERE s.cluster = v_last.cluster AND s.first_id = v_last.first_id AND s.last_id = -1), 0)
        AND NOT EXISTS (SELECT FROM (
          SELECT unnest(s.entry_ids) AS id FROM audit_seals s
          WHERE s.cluster <> v_last.cluster OR s.first_id <> v_last.first_id) AS old WHERE old.id = e.id)
      ORDER BY e.id LIMIT p_entries_max) AS past;
  END IF;

  WHILE v_total < p_entries_max LOOP
    v_last.number := v_last.number + 1;
    v_last.position := v_last.position + cardinality(v_last.entry_ids);
    IF v_last.last_id = -1 THEN
      v_last.entry_ids := v_past[v_total + 1 : v_total + v_chunk];
      v_last.last_id := CASE WHEN v_last.entry_ids = '{}' THEN 0 ELSE -1 END;
    ELSE
      SELECT coalesce(array_agg(id ORDER BY xact, id), '{}') INTO v_last.entry_ids FROM (
        SELECT e.id, e.xact FROM audit_entries e
        WHERE (e.xact, e.id) > (v_last.last_xact, v_last.last_id) AND e.id > v_last.first_id
          AND e.xact < pg_snapshot_xmin(pg_current_snapshot())
        ORDER BY e.xact, e.id LIMIT v_chunk) AS next;
      EXIT WHEN v_last.entry_ids = '{}';
    END IF;

    v_hashes := '{}';
    FOR v_row IN
      SELECT e.id, e.xact, convert_to(ROW(
               e.id, e.xact, trim_scale(extract(epoch FROM e.occurred_at) * 1000000), e.actor, e.action, e.target,
               e.target_id, e.target_key, e.request_id, e.reason, e.changes, encode(e.before_hash, 'hex'),
               encode(e.after_hash, 'hex'))::text, 'UTF8') AS canonical
      FROM audit_entries e WHERE e.id = ANY (v_last.entry_ids)
      ORDER BY CASE WHEN v_last.last_id <> -1 THEN e.xact END, e.id
    LOOP
      v_head := sha256(v_head || v_row.canonical);
      v_hashes := v_hashes || v_head;
      IF v_last.last_id <> -1 THEN
        v_last.last_xact := v_row.xact;
        v_last.last_id := v_row.id;
      END IF;
    END LOOP;
    v_last.hashes := coalesce((SELECT string_agg(hash, '' ORDER BY n) FROM unnest(v_hashes) WITH ORDINALITY AS h (hash, n)), '');
    v_last.sealed_at := clock_timestamp();
    INSERT INTO audit_seals SELECT (v_last).*;
    v_total := v_total + cardinality(v_last.entry_ids);
  END LOOP;
  RETURN v_total;
END
$$;
