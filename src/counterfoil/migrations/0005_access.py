"""Sign-ins, refresh tokens, API keys and one-time tokens."""

from pathlib import Path

import counterfoil.infrastructure.transaction_ids
import django.contrib.postgres.fields
import django.db.models.deletion
import django.db.models.functions.datetime
from django.conf import settings
from django.db import migrations, models

from counterfoil.infrastructure.migration_operations import run_sql_file, set_timeouts

XID = counterfoil.infrastructure.transaction_ids.TransactionIdField
SQL = Path(__file__).parent / "sql"
REVERSE = """
DROP TRIGGER raise_token_epoch ON users;
DROP TRIGGER revoke_sign_in ON sign_ins;
DROP TRIGGER revoke_api_key ON api_keys;
DROP FUNCTION raise_token_epoch_v1, revoke_sign_in_v1, revoke_api_key_v1;
"""

class Migration(migrations.Migration):
    """Sign-ins, refresh tokens, API keys, one-time tokens, and the triggers that take rights away."""

    dependencies = [
        ('counterfoil', '0004_people_encrypted'),
    ]

    operations = [
        set_timeouts(),
        migrations.AddField(
            model_name='user',
            name='email_confirmed_at',
            field=models.DateTimeField(null=True),
        ),
        migrations.AddField(
            model_name='user',
            name='token_epoch',
            field=models.IntegerField(db_default=0),
        ),
        migrations.CreateModel(
            name='AccessRevocation',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('user_id', models.BigIntegerField()),
                ('epoch', models.IntegerField(null=True)),
                ('sign_in_id', models.UUIDField(null=True)),
                ('api_key_id', models.BigIntegerField(null=True)),
                ('revoked_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('written_by', XID(db_default=models.Func(function='pg_current_xact_id', output_field=XID()))),
            ],
            options={
                'db_table': 'access_revocations',
                'indexes': [models.Index(fields=['written_by'], name='idx_access_revocations_xid'), models.Index(fields=['revoked_at'], name='idx_access_revocations_at')],
                'constraints': [models.CheckConstraint(condition=models.Q(('epoch__isnull', False), ('sign_in_id__isnull', False), ('api_key_id__isnull', False), _connector='OR'), name='ck_access_revocations_something')],
            },
        ),
        migrations.CreateModel(
            name='ApiKey',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('name', models.CharField(max_length=120)),
                ('prefix', models.CharField(max_length=16)),
                ('secret_hash', models.BinaryField(unique=True)),
                ('scopes', django.contrib.postgres.fields.ArrayField(base_field=models.CharField(max_length=40), size=None)),
                ('created_by', models.CharField(max_length=64)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('expires_at', models.DateTimeField()),
                ('last_used_at', models.DateTimeField(null=True)),
                ('revoked_at', models.DateTimeField(null=True)),
                ('user', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='+', to=settings.AUTH_USER_MODEL)),
            ],
            options={
                'verbose_name': 'API key',
                'db_table': 'api_keys',
            },
        ),
        migrations.CreateModel(
            name='SignIn',
            fields=[
                ('id', models.UUIDField(primary_key=True, serialize=False)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('last_used_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('expires_at', models.DateTimeField()),
                ('revoked_at', models.DateTimeField(null=True)),
                ('revoke_reason', models.CharField(db_default='', max_length=40)),
                ('address_hash', models.BinaryField(null=True)),
                ('user', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='+', to=settings.AUTH_USER_MODEL)),
            ],
            options={
                'db_table': 'sign_ins',
            },
        ),
        migrations.CreateModel(
            name='RefreshToken',
            fields=[
                ('token_hash', models.BinaryField(primary_key=True, serialize=False)),
                ('issued_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('expires_at', models.DateTimeField()),
                ('used_at', models.DateTimeField(null=True)),
                ('sign_in', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='+', to='counterfoil.signin')),
            ],
            options={
                'db_table': 'refresh_tokens',
            },
        ),
        migrations.CreateModel(
            name='OneTimeToken',
            fields=[
                ('id', models.UUIDField(primary_key=True, serialize=False)),
                ('purpose', models.CharField(choices=[('confirm_email', 'confirm_email'), ('reset_password', 'reset_password')], max_length=20)),
                ('token_hash', models.BinaryField(null=True, unique=True)),
                ('requested_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('attempts', models.SmallIntegerField(db_default=0)),
                ('next_attempt_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), null=True)),
                ('sent_at', models.DateTimeField(null=True)),
                ('expires_at', models.DateTimeField(null=True)),
                ('used_at', models.DateTimeField(null=True)),
                ('cancelled_at', models.DateTimeField(null=True)),
                ('user', models.ForeignKey(null=True, on_delete=django.db.models.deletion.CASCADE, related_name='+', to=settings.AUTH_USER_MODEL)),
            ],
            options={
                'db_table': 'one_time_tokens',
                'indexes': [models.Index(condition=models.Q(('next_attempt_at__isnull', False)), fields=['next_attempt_at'], name='idx_one_time_tokens_due')],
                'constraints': [models.CheckConstraint(condition=models.Q(('purpose__in', ('confirm_email', 'reset_password'))), name='ck_one_time_tokens_purpose')],
            },
        ),
        migrations.AddIndex(
            model_name='signin',
            index=models.Index(fields=['expires_at'], name='idx_sign_ins_expires'),
        ),
        run_sql_file(SQL / "access_v1.sql", reverse_sql=REVERSE),
    ]
