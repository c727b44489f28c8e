CREATE TRIGGER audit_update BEFORE UPDATE ON audit
BEGIN SELECT raise(ABORT, 'the audit log is append-only'); END;

CREATE TRIGGER audit_delete BEFORE DELETE ON audit
BEGIN SELECT raise(ABORT, 'the audit log is append-only'); END;

-- INSERT OR REPLACE deletes a row without the trigger above.
CREATE TRIGGER audit_insert BEFORE INSERT ON audit WHEN EXISTS (SELECT 1 FROM audit WHERE seq = NEW.seq)
BEGIN SELECT raise(ABORT, 'the audit log is append-only'); END;

CREATE TRIGGER audit_head_delete BEFORE DELETE ON audit_head
BEGIN SELECT raise(ABORT, 'the audit log is append-only'); END;

CREATE TRIGGER audit_head_update BEFORE UPDATE ON audit_head WHEN NEW.seq < OLD.seq OR NEW.seq > OLD.seq + 1
BEGIN SELECT raise(ABORT, 'the audit log is append-only'); END;
