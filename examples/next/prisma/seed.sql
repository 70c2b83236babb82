insert into "Module" (id, title, position)
values
    ('cmhn0basics000008l4a1b2c3d', 'Basics', 1),
    ('cmhn0loops0000108l4e5f6g7h', 'Loops', 2);

insert into "Lesson" (id, title, body, position, published, free, "moduleId")
values
    ('cmhn0values00008l41111aaaa', 'Values', 'A value is a number, a text, or true or false.', 1, true, true, 'cmhn0basics000008l4a1b2c3d'),
    ('cmhn0names000008l42222bbbb', 'Names', 'A name stands for a value.', 2, true, true, 'cmhn0basics000008l4a1b2c3d'),
    ('cmhn0while000008l43333cccc', 'While', 'A loop runs while its condition is true.', 1, true, false, 'cmhn0loops0000108l4e5f6g7h'),
    ('cmhn0each0000008l44444dddd', 'Each', 'A loop runs once for each element.', 2, true, false, 'cmhn0loops0000108l4e5f6g7h'),
    ('cmhn0until000008l45555eeee', 'Until', 'This lesson is not finished yet.', 3, false, false, 'cmhn0loops0000108l4e5f6g7h');
