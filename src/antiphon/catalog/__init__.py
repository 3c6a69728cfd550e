"""The one SQL database: schema, migrations, one repository per noun beside the value it stores."""
